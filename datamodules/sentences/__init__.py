"""Sentences: groups that say the same, and labelled pairs."""
