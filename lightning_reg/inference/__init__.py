"""Registration with a trained model or by instance optimisation; evaluation, reports, export."""
