"""Layers and tensor functions that two families really share."""
