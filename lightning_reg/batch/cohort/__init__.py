"""Registration of many pairs: lists, sequential or parallel runs, results, visual control."""
