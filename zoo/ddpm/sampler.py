"""Samplers as one affine step: ancestral (DDPM) and DDIM, on any subset of the steps.

Both go from x_t to x_prev = A x0 + B x_t + sigma z with x0 = clip(a x_t + b output), so that a
sampler is a table of such `Coefficients`. It is computed in float64 on the host and then lives on
the device: the loop neither waits for the device nor branches on its values.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from zoo.ddpm.diffusion import Diffusion, Variance
from zoo.layers.counter_rng import normal

SamplerName = Literal["ancestral", "ddim"]
Advance = Callable[..., Tensor]
# The network: (x_BCHW, t_B) -> output.
Predict = Callable[[Tensor, Tensor], Tensor]


class Coefficients(NamedTuple):
    """What a step from x_t to x_prev multiplies: columns of a plan's table, or a row of it."""

    x0_of_xt: Tensor
    """a of x0 = a x_t + b output."""
    x0_of_output: Tensor
    """b of the same."""
    prev_x0: Tensor
    """A of x_prev = A x0 + B x_t + sigma z."""
    prev_xt: Tensor
    """B of the same."""
    sigma: Tensor
    """Standard deviation of the noise, where it is not learned."""
    log_beta_tilde: Tensor
    """The least log-variance that may be learned."""
    log_beta: Tensor
    """The largest."""
    noisy: Tensor
    """0 at the last step, which adds no noise, else 1."""


@dataclass(frozen=True)
class Plan:
    """What a sampler does at each of its S steps, from the noisiest down.

    Args:
        timesteps: What the network is told at each step, int64, shape (S,).
        table: The `Coefficients` of each step, one tensor for one transfer, (S, 8), float64.
        learned: Take sigma from the network's output, between the two logarithms.
        clip: Clip x0 to [-1, 1].
    """

    timesteps: Tensor
    table: Tensor
    learned: bool
    clip: bool

    @property
    def columns(self) -> Coefficients:
        """Each coefficient at all steps, shape (S,)."""
        return Coefficients(*self.table.unbind(1))

    @property
    def stochastic(self) -> bool:
        """Whether any step adds noise."""
        return self.learned or bool((self.columns.sigma > 0).any())


def _plan(
    diffusion: Diffusion, A: Tensor, B: Tensor, sigma: Tensor, learned: bool, clip: bool
) -> Plan:
    tables, chain = diffusion.tables, diffusion.chain
    noisy = (torch.arange(len(chain)) > 0).double()
    columns = Coefficients(
        x0_of_xt=tables["x0_of_xt"],
        x0_of_output=tables["x0_of_output"],
        prev_x0=A,
        prev_xt=B,
        sigma=sigma * noisy,
        log_beta_tilde=tables["log_beta_tilde"],
        log_beta=tables["log_beta"],
        noisy=noisy,
    )
    return Plan(chain.timesteps.flip(0), torch.stack(columns, dim=1).flip(0), learned, clip)


def ancestral(
    diffusion: Diffusion,
    timesteps: list[int] | None = None,
    *,
    variance: Variance | None = None,
    clip: bool = True,
) -> Plan:
    """Ancestral sampling (arXiv 2006.11239, algorithm 2; fewer steps: arXiv 2102.09672, eq. 19).

    With variance zero this is the post's greedy sampling (kexue.fm/archives/9119). The last step
    adds no noise.

    Args:
        diffusion: The process that the model was trained on.
        timesteps: Steps to visit; all if None.
        variance: Of the reverse step, if not the model's own.
        clip: Clip the predicted x_0 to [-1, 1], as Ho does.

    Raises:
        ValueError: The network does not predict the variance that is asked for.
    """
    kept = diffusion.respaced(timesteps, variance)
    sigma = torch.exp(0.5 * kept.tables["log_variance"])
    A, B = kept.chain.posterior_x0, kept.chain.posterior_xt
    return _plan(kept, A, B, sigma, kept.variance == "learned_range", clip)


def ddim(
    diffusion: Diffusion,
    timesteps: list[int] | None = None,
    *,
    eta: float = 0.0,
    clip: bool = True,
) -> Plan:
    """DDIM (arXiv 2010.02502, eq. 12 and 16), each step going to the step really visited next.

    Where x_0 is clipped, the noise is recomputed from it, so that (x_0, noise) still gives x_t: as
    in the code of OpenAI and lucidrains; diffusers does so with `use_clipped_model_output=True`.

    Args:
        diffusion: The process that the model was trained on.
        timesteps: Steps to visit; all if None.
        eta: Noise from 0, deterministic, to 1, ancestral with fixed_small.
        clip: Clip the predicted x_0 to [-1, 1].

    Raises:
        ValueError: `eta` is not in [0, 1].
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta={eta}: DDIM needs a value in [0, 1]")
    kept = diffusion.respaced(timesteps, "fixed_small")  # what a network may say of it is not used
    chain = kept.chain
    variance = eta**2 * chain.beta_tilde
    # sqrt(1 - alpha_bar_prev - sigma^2) eps, eps being (x_t - sqrt(alpha_bar) x_0) over its scale.
    B = (1 - chain.alpha_bar_prev - variance).clamp(min=0).sqrt() / (1 - chain.alpha_bar).sqrt()
    A = chain.alpha_bar_prev.sqrt() - B * chain.alpha_bar.sqrt()
    return _plan(kept, A, B, variance.sqrt(), False, clip)


def advance(
    x: Tensor,
    output: Tensor,
    row: Tensor,
    t: Tensor,
    seed: int | Tensor,
    index: Tensor,
    *,
    learned: bool,
    clip: bool,
    stochastic: bool,
) -> Tensor:
    """One step: from x_t and the network's output to x_prev, in the precision of x.

    Args:
        x: State, shape (B, C, H, W).
        output: The network's output at (x, t).
        row: This step's row of the plan's table, its `Coefficients`.
        t: This step's number, a 0-dim tensor: also the number of its stream of noise.
        seed: Of the noise.
        index: Numbers of the samples, int64, shape (B,).
        learned: As in the plan.
        clip: As in the plan.
        stochastic: Whether to draw noise at all.
    """
    channels = x.shape[1]
    step = Coefficients(*row.unbind())
    output = output.to(x.dtype)
    x0 = step.x0_of_xt * x + step.x0_of_output * output[:, :channels]
    mean = step.prev_x0 * (x0.clamp(-1, 1) if clip else x0) + step.prev_xt * x
    if not stochastic:
        return mean
    noise = normal(seed, index, t, tuple(x.shape[1:])).to(x.dtype)
    if learned:
        fraction = (output[:, channels:] + 1) / 2
        low, high = step.log_beta_tilde, step.log_beta
        return mean + step.noisy * torch.exp(0.5 * (low + fraction * (high - low))) * noise
    return mean + step.sigma * noise


@cache
def _compiled_advance() -> Advance:
    compiled: Advance = torch.compile(advance, fullgraph=True)
    return compiled


def run(
    predict: Predict,
    plan: Plan,
    x: Tensor,
    *,
    seed: int,
    index: Tensor,
    compile: bool = False,
    progress: bool = False,
) -> Iterator[Tensor]:
    """Yields the state after each step of the plan; the last one is the sample, not clipped.

    Args:
        predict: The network.
        plan: What to do.
        x: State at the first step of the plan, float32, or float64 for reference.
        seed: Of the noise.
        index: Numbers of the samples, int64, shape (B,), on the device of x.
        compile: Fuse what a step does beside the network.
        progress: Show a progress bar.
    """
    table, timesteps = plan.table.to(x), plan.timesteps.to(x.device)
    # A tensor where compiled, as the program must not depend on the value.
    key = torch.tensor(seed, device=x.device) if compile else seed
    update = _compiled_advance() if compile else advance
    flags = {"learned": plan.learned, "clip": plan.clip, "stochastic": plan.stochastic}
    steps: Iterable[tuple[Tensor, Tensor]] = list(
        zip(timesteps.unbind(), table.unbind(), strict=True)
    )
    if progress:
        from tqdm import tqdm

        steps = tqdm(steps, desc="sampling", unit="step")
    for t, row in steps:
        output = predict(x, t.expand(len(x)))
        x = update(x, output, row, t, key, index, **flags)
        yield x


def initial_noise(seed: int, index: Tensor, shape: tuple[int, ...], diffusion: Diffusion) -> Tensor:
    """Noise of stream T, which no step uses: where sampling starts, and what interpolation adds."""
    return normal(seed, index, int(diffusion.chain.timesteps[-1]) + 1, shape)
