"""Variational autoencoders (kexue.fm/archives/8791, 8404, 7381)."""
