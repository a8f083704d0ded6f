"""Studies: many trainings, each in its own process, and their joint results."""
