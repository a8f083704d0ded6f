"""Everything that is many: cohorts, evaluations, studies and searches."""
