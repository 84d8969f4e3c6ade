"""Studies: what a post says, measured."""
