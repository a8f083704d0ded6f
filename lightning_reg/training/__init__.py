"""Training: the one module, pure schedules, callbacks, and the record of a run."""
