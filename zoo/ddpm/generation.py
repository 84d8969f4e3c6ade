"""What a trained DDPM is for: samples, interpolations, bits per dimension."""

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.ddpm.diffusion import Diffusion, Variance, check_choice
from zoo.ddpm.gaussian import CDF
from zoo.ddpm.likelihood import Bound, variational_bound
from zoo.ddpm.sampler import FEW_STEPS, Plan, SamplerName, ancestral, ddim, initial_noise, run
from zoo.ddpm.schedule import Spacing, spaced_timesteps
from zoo.layers.labels import Labels, labels_of
from zoo.training.fit_of_data import check_given
from zoo.training.module import Module, evaluating

# Of the noise and the steps of evaluation: an item meets the same ones in every epoch and run.
EVALUATION_SEED = 9119


class Chosen(NamedTuple):
    """How to sample, with nothing left open."""

    sampler: SamplerName
    steps: int
    spacing: Spacing
    eta: float


@dataclass(frozen=True)
class Sampling:
    """How a model samples unless it is told otherwise; the arguments are those of `zoo.DDPM`."""

    sampler: SamplerName
    steps: int | None
    spacing: Spacing | None
    eta: float
    clip: bool
    guidance: float

    def asked(
        self,
        timesteps: int,
        sampler: SamplerName | None = None,
        steps: int | None = None,
        spacing: Spacing | None = None,
        eta: float | None = None,
    ) -> Chosen:
        """What is meant where some is told.

        The steps, spacing and noise that are configured for dpmpp are not meant for the other
        samplers, nor theirs for it.
        """
        own, sampler = self, sampler or self.sampler
        check_choice("sampler", sampler, SamplerName)
        few = sampler == "dpmpp"
        if few != (own.sampler == "dpmpp"):
            own = replace(own, steps=None, spacing=None, eta=0.0)
        if steps is None:
            steps = own.steps or (min(FEW_STEPS, timesteps) if few else timesteps)
        spacing = spacing or own.spacing or ("logsnr" if few else "trailing")
        return Chosen(sampler, steps, spacing, own.eta if eta is None else eta)


class Generation(Module):
    """Samples, interpolations and bits per dimension of a network `self(x_t, t, labels)`.

    >>> import zoo
    >>> model = zoo.DDPM(image_size=8, channels=1, width=8, multipliers=[1, 2], groups=4)
    >>> model.sample(2, sampler="ddim", steps=3).shape
    torch.Size([2, 1, 8, 8])
    """

    diffusion: Diffusion
    sampling: Sampling
    shape: tuple[int, int, int]
    num_classes: int
    label_dropout: float
    compiled: bool

    def plan(
        self,
        *,
        sampler: SamplerName | None = None,
        steps: int | None = None,
        spacing: Spacing | None = None,
        eta: float | None = None,
        variance: Variance | None = None,
        clip: bool | None = None,
        start: int | None = None,
    ) -> Plan:
        """What a sampler will do; what is not given is as the model was configured.

        Args:
            sampler: ancestral, ddim or dpmpp.
            steps: Steps to take.
            spacing: leading, trailing, linspace, quadratic or logsnr.
            eta: Noise of ddim and dpmpp.
            variance: Of ancestral's reverse step.
            clip: Clip the predicted image to [-1, 1] at each step.
            start: Begin at this step, and visit all below it, or of them those that dpmpp takes.

        Raises:
            ValueError: A value is out of range, or has no effect beside the others.
        """
        own = self.sampling if start is None else replace(self.sampling, steps=None, spacing=None)
        log_snr = self.diffusion.chain.snr.log()[: None if start is None else start + 1]
        T = len(log_snr)
        chosen = own.asked(T, sampler, steps, spacing, eta)
        kept = spaced_timesteps(T, chosen.steps, chosen.spacing, log_snr)
        clip = own.clip if clip is None else clip
        if chosen.sampler != "ancestral":
            if variance is not None:
                raise ValueError(
                    f"variance={variance} has no effect on sampler={chosen.sampler}: "
                    "use sampler=ancestral, or eta"
                )
            multistep = chosen.sampler == "dpmpp"
            return ddim(self.diffusion, kept, eta=chosen.eta, clip=clip, multistep=multistep)
        if eta:
            raise ValueError(
                f"eta={eta} has no effect on sampler=ancestral: use sampler=ddim or dpmpp"
            )
        return ancestral(self.diffusion, kept, variance=variance, clip=clip)

    def sampler_protocol(
        self,
        sampler: SamplerName | None = None,
        steps: int | None = None,
        spacing: Spacing | None = None,
        eta: float | None = None,
        guidance: float | None = None,
    ) -> str:
        """How `sample` draws, in words, when it is given these."""
        T = len(self.diffusion.chain)
        chosen = self.sampling.asked(T, sampler, steps, spacing, eta)
        own = f"variance {self.diffusion.variance}"
        noise = own if chosen.sampler == "ancestral" else f"eta {chosen.eta:g}"
        strength = self.sampling.guidance if guidance is None else guidance
        return (
            f"{chosen.sampler}, {chosen.steps} of {T} steps, {chosen.spacing} spacing, {noise}, "
            f"x0 {'clipped' if self.sampling.clip else 'not clipped'}"
            + (f", guidance {strength:g}" if strength != 1 else "")
        )

    def check_guidance(self, guidance: float) -> None:
        """Raises ValueError if the model was not trained for guidance, or it is no number."""
        if not math.isfinite(guidance):
            raise ValueError(f"guidance={guidance}: give a finite number, 1 for none")
        if guidance != 1 and not self.num_classes:
            raise ValueError(f"guidance={guidance}: this model has no classes; leave it at 1")
        if guidance != 1 and not self.label_dropout:
            raise ValueError(f"guidance={guidance}: needs a model trained with label_dropout > 0")

    def _guided(self, x: Tensor, t: Tensor, labels: Tensor | None, guidance: float) -> Tensor:
        """Output moved away from the unconditional one (arXiv 2207.12598), in one doubled batch.

        With w = `guidance`: free + w (conditional - free), so 1 is the conditional output (the
        paper's weight is w - 1). For x0 and v it is the same as for the noise, of which they are
        affine functions. A learned variance is the conditional one's.
        """
        if guidance == 1:
            return self(x, t, labels)
        assert labels is not None
        none = torch.full_like(labels, self.num_classes)
        output = self(torch.cat([x, x]), torch.cat([t, t]), torch.cat([labels, none]))
        conditional, free = output.to(x.dtype).split(len(x))
        channels = x.shape[1]
        free, prediction = free[:, :channels], conditional[:, :channels]
        return torch.cat([free + guidance * (prediction - free), conditional[:, channels:]], dim=1)

    def _states(
        self,
        plan: Plan,
        x: Tensor,
        index: Tensor,
        *,
        seed: int,
        labels: Labels | None,
        guidance: float | None,
        progress: bool = False,
    ) -> Iterator[Tensor]:
        guidance = self.sampling.guidance if guidance is None else guidance
        self.check_guidance(guidance)
        given = labels_of(index, labels, self.num_classes, null=True)
        predict = partial(self._guided, labels=given, guidance=guidance)
        return run(
            predict, plan, x, seed=seed, index=index, compile=self.compiled, progress=progress
        )

    def sample(
        self,
        n: int,
        *,
        steps: int | None = None,
        sampler: SamplerName | None = None,
        eta: float | None = None,
        seed: int = 0,
        labels: Labels | None = None,
        guidance: float | None = None,
        first: int = 0,
        index: Tensor | None = None,
        spacing: Spacing | None = None,
        variance: Variance | None = None,
        clip: bool | None = None,
        return_trajectory: bool = False,
        progress: bool = False,
    ) -> Tensor:
        """Samples; what is not given is as the model was configured.

        A sample is a function of (seed, its number): `sample(64)` is `sample(32)` and
        `sample(32, first=32)`.

        Args:
            n: How many.
            steps: Steps to take.
            sampler: ancestral, ddim or dpmpp.
            eta: Noise of ddim and dpmpp, from 0 (none) to 1.
            seed: Of the noise.
            labels: Classes, one for all or one for each; num_classes means none. The classes in
                turn if not given.
            guidance: Strength of classifier-free guidance; 1 is none.
            first: Number of the first sample.
            index: Numbers of the samples, int64, shape (n,), if they are not first, first + 1, ...
            spacing: Which steps: leading, trailing, linspace, quadratic or logsnr.
            variance: Of ancestral's reverse step.
            clip: Clip the predicted image to [-1, 1] at each step.
            return_trajectory: Return the states before the first and after each step instead, which
                takes the memory of that many batches.
            progress: Show a progress bar.

        Returns:
            float32 in [-1, 1], shape (n, C, H, W); or the states, (S + 1, n, C, H, W), not clipped.

        Raises:
            ValueError: A value is out of range, or has no effect beside the others.
        """
        if n < 1:
            raise ValueError(f"n={n}: draw at least one sample")
        chosen = self.plan(
            sampler=sampler, steps=steps, spacing=spacing, eta=eta, variance=variance, clip=clip
        )
        if index is None:
            index = torch.arange(first, first + n, device=self.device)
        with evaluating(self):
            states = [initial_noise(seed, index, self.shape, self.diffusion)]
            loop = self._states(
                chosen,
                states[0],
                index,
                seed=seed,
                labels=labels,
                guidance=guidance,
                progress=progress,
            )
            for state in loop:
                states = [*states, state] if return_trajectory else [state]
        return torch.stack(states) if return_trajectory else states[-1].clamp(-1, 1)

    def interpolate(
        self,
        x_a: Tensor,
        x_b: Tensor,
        lam: float | Tensor,
        t: int = 500,
        seed: int = 0,
        *,
        labels: Labels | None = None,
        guidance: float | None = None,
        sampler: SamplerName | None = None,
        eta: float | None = None,
        variance: Variance | None = None,
        clip: bool | None = None,
    ) -> Tensor:
        """Images between two, by way of their noisy versions (arXiv 2006.11239, section 4.4).

        Both get the same noise at step t, and the mixture is denoised from that same step.

        Args:
            x_a: Images in [-1, 1], shape (B, C, H, W).
            x_b: Images of the same shape.
            lam: Weight of x_b: a number, or one for each pair, shape (B,).
            t: Step to noise to: the higher, the coarser what the two images share.
            seed: Of the noise: the same for all lam.
            labels: As for `sample`.
            guidance: As for `sample`.
            sampler: As for `sample`.
            eta: As for `sample`.
            variance: As for `sample`.
            clip: As for `sample`.

        Returns:
            float32 in [-1, 1], shape (B, C, H, W).

        Raises:
            ValueError: Shapes differ, t is not a step, or as for `sample`.
        """
        T = len(self.diffusion.chain)
        if not 0 <= t < T:
            raise ValueError(f"t={t}: choose a step in 0 ... {T - 1}")
        if x_a.shape != x_b.shape or x_a.shape[1:] != self.shape:
            raise ValueError(
                f"images of shapes {tuple(x_a.shape)} and {tuple(x_b.shape)}: both must be "
                f"(B, {', '.join(map(str, self.shape))})"
            )
        check_given(x_a, x_b, own=self.shape)
        chosen = self.plan(sampler=sampler, eta=eta, variance=variance, clip=clip, start=t)
        x_a, x_b = x_a.to(self.device).float(), x_b.to(self.device).float()
        index = torch.arange(len(x_a), device=self.device)
        weight = torch.as_tensor(lam, dtype=torch.float32, device=self.device).reshape(-1, 1, 1, 1)
        with evaluating(self):
            noise = initial_noise(seed, index, self.shape, self.diffusion)
            step = chosen.timesteps[0].to(self.device).expand_as(index)
            noisy = [self.diffusion.q_sample(x, step, noise) for x in (x_a, x_b)]
            x = (1 - weight) * noisy[0] + weight * noisy[1]
            loop = self._states(chosen, x, index, seed=seed, labels=labels, guidance=guidance)
            last = deque(loop, maxlen=1)
        return last.pop().clamp(-1, 1)

    def bits_per_dim(
        self,
        x: Tensor,
        *,
        index: Tensor | None = None,
        labels: Tensor | None = None,
        seed: int = EVALUATION_SEED,
        steps: int | None = None,
        variance: Variance | None = None,
        cdf: CDF = "tanh",
        return_parts: bool = False,
    ) -> Tensor | Bound:
        """Variational bound of each image's code length (arXiv 2006.11239, eq. 5), in bits/dim.

        One draw of the noise at each step, a function of (seed, the image's number).

        Args:
            x: Images in [-1, 1] on the model's grey levels, shape (B, C, H, W).
            index: Numbers of the images, int64, shape (B,); 0, 1, ... if not given.
            labels: Classes, shape (B,), for the conditional bound.
            seed: Of the noise.
            steps: Evaluate the model on so many of its steps only, which is a looser bound.
            variance: Another variance of the reverse step than the model's; zero has no likelihood.
            cdf: tanh, as all published numbers have it, or erf.
            return_parts: Return the prior's, each step's and the decoder's part.

        Returns:
            float32, shape (B,), or the parts.

        Raises:
            ValueError: The variance is zero, or a value is out of range.
        """
        check_choice("cdf", cdf, CDF)
        check_given(x, own=self.shape)
        diffusion = self.diffusion
        if steps is not None or variance is not None:
            T = len(diffusion.chain)
            # Leading, as the first step kept is then 0: its noise is of the size of a grey level.
            diffusion = diffusion.respaced(spaced_timesteps(T, steps or T, "leading"), variance)
        x = x.to(self.device).float()
        index = torch.arange(len(x)) if index is None else index
        index = index.to(self.device)
        if labels is not None:
            labels = labels_of(index, labels, self.num_classes, null=True)
        with evaluating(self):
            bound = variational_bound(
                diffusion,
                partial(self._guided, labels=labels, guidance=1),
                x,
                seed=seed,
                index=index,
                clip=self.sampling.clip,
                cdf=cdf,
            )
        return bound if return_parts else bound.total
