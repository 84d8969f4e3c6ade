"""Wasserstein GANs and what they estimate (kexue.fm/archives/8757 and 8244)."""
