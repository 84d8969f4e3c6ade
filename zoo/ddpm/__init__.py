"""Denoising diffusion probabilistic models (arXiv 2006.11239; kexue.fm/archives/9119)."""

from zoo.ddpm.module import DDPM

__all__ = ["DDPM"]
