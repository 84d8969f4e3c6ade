"""Sample quality: distances between sets of features, and the extractors that make features."""
