"""A run as a page: `zoo report` and `zoo plot` read the run directory alone, never a model."""
