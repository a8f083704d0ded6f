"""Studies: many trainings, each in a process of its own, and what they say together."""
