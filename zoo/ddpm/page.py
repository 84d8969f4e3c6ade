"""What a DDPM offers on a page: samples, whose denoising is seen."""

from collections.abc import Iterator
from typing import get_args

import torch
from torch import Tensor

from zoo.ddpm.figures import Figures
from zoo.ddpm.sampler import SamplerName, initial_noise
from zoo.pages import IMAGES, SEED, Choice, Control, Number, Result, Tab, class_choice, class_of

_STRONGEST = 20


class Pages(Figures):
    """Samples with the controls that this model has."""

    def tabs(self) -> list[Tab]:
        """Samples, as they are denoised."""
        own = self.sampling
        samplers = [own.sampler, *(name for name in get_args(SamplerName) if name != own.sampler)]
        timesteps = len(self.diffusion.chain)
        controls: dict[str, Control] = {
            "n": IMAGES,
            "seed": SEED,
            **class_choice(self.num_classes, none=bool(self.label_dropout)),
            "sampler": Choice("Sampler", samplers),
            "steps": Number("Steps", own.asked(timesteps).steps, 1, timesteps),
        }
        if self.num_classes and self.label_dropout:
            controls["guidance"] = Number("Guidance", own.guidance, 0, _STRONGEST, 0.1)
        results = [Result("images", "Images"), Result("text", "How")]
        note = "ancestral is made for all steps, ddim and dpmpp for few."
        return [Tab("Samples", self._denoised, controls, results, note)]

    @torch.no_grad()
    def _denoised(
        self,
        n: int,
        seed: int,
        sampler: SamplerName,
        steps: int,
        label: str = "none",
        guidance: float | None = None,
    ) -> Iterator[tuple[Tensor, str]]:
        """The states on the way to the images that `sample` draws."""
        plan = self.plan(sampler=sampler, steps=steps)
        index = torch.arange(n, device=self.device)
        noise = initial_noise(seed, index, self.shape, self.diffusion)
        yield noise.clamp(-1, 1), "noise"
        labels = class_of(label, self.num_classes) if self.num_classes else None
        states = self._states(plan, noise, index, seed=seed, labels=labels, guidance=guidance)
        for step, state in enumerate(states, 1):
            yield state.clamp(-1, 1), f"step {step} of {steps}"
        how = self.sampler_protocol(sampler=sampler, steps=steps, guidance=guidance)
        yield state.clamp(-1, 1), f"{how}, seed {seed}"
