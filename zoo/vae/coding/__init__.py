"""Lossless compression by a VAE: bits-back with ANS, and its archive."""
