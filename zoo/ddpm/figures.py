"""What a DDPM shows: noise becoming images."""

import torch

from zoo.data.images.pixels import pixels_of
from zoo.data.protocols import Moment
from zoo.ddpm.generation import Generation
from zoo.ddpm.sampler import initial_noise
from zoo.figures import Figure

_IMAGES, _STEPS, _SHOWN, _FEW = 8, 50, 9, 25


class Figures(Generation):
    """Pictures for the page of a run, in few steps."""

    def preview(self, n: int, *, seed: int = 0, first: int = 0) -> torch.Tensor:
        """Samples in few steps; arguments as `sample`."""
        steps = min(_FEW, len(self.diffusion.chain))
        return self.sample(n, sampler="ddim", eta=0.0, steps=steps, seed=seed, first=first)

    def figures(self, moment: Moment) -> dict[str, Figure]:
        """The denoising of eight samples, at the end and of a test."""
        if moment == "val":
            return {}
        T = len(self.diffusion.chain)
        plan = self.plan(sampler="ddim", eta=0.0, steps=min(_STEPS, T))
        index = torch.arange(_IMAGES, device=self.device)
        noise = initial_noise(0, index, self.shape, self.diffusion)
        steps = self._states(plan, noise, index, seed=0, labels=None, guidance=None)
        states = torch.stack([noise, *steps], 1)
        # Nearer to one another at the end, where most is seen to happen.
        parts = 1 - torch.linspace(1, 0, _SHOWN).square()
        shown = (parts * (states.shape[1] - 1)).round().long().tolist()
        times = [*map(str, plan.timesteps.tolist()), "image"]
        return {
            "denoising": Figure(
                "images",
                "Denoising of eight samples",
                {"images": pixels_of(states[:, shown].clamp(-1, 1))},
                f"by DDIM without noise, {len(plan.timesteps)} of {T} steps; t below",
                {"columns": [times[i] for i in shown]},
            )
        }
