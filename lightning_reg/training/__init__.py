"""Training: the LightningModule, schedules, callbacks, and the record of a run."""
