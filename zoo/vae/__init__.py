"""Variational autoencoders (kexue.fm/archives/8791, 8404, 7381)."""

from zoo.vae.von_mises_fisher import HypersphericalUniform, VonMisesFisher

__all__ = ["HypersphericalUniform", "VonMisesFisher"]
