"""WGAN: every Lipschitz constraint, next to the true Wasserstein distance."""

from zoo.wgan.module import WGAN

__all__ = ["WGAN"]
