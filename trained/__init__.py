"""What the zoo trains to its end, ships and reports."""
