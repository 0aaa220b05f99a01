"""What a run can be told: schemas with documented keys, and what their values may be."""
