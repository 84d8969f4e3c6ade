"""Samplers as one affine step: ancestral (DDPM), DDIM and DPM-Solver++, on any subset of the steps.

All go from x_t to x_prev = A x0 + B x_t + sigma z with x0 = clip(a x_t + b output), which
DPM-Solver++ moves on by c times its change since the step before, so that a sampler is a table of
such `Coefficients`. It is computed in float64 on the host and then lives on
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

SamplerName = Literal["ancestral", "ddim", "dpmpp"]
# Of dpmpp, unless it is told otherwise: see docs/results/ddpm.md.
FEW_STEPS = 10
Advance = Callable[..., tuple[Tensor, Tensor]]
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
    extrapolation: Tensor
    """c of x0 + c (x0 - x0 of the step before)."""


@dataclass(frozen=True)
class Plan:
    """What a sampler does at each of its S steps, from the noisiest down.

    Args:
        timesteps: What the network is told at each step, int64, shape (S,).
        table: The `Coefficients` of each step, one tensor for one transfer, (S, 9), float64.
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

    @property
    def multistep(self) -> bool:
        """Whether any step needs x0 of the step before."""
        return bool((self.columns.extrapolation > 0).any())


def _plan(
    diffusion: Diffusion,
    A: Tensor,
    B: Tensor,
    sigma: Tensor,
    learned: bool,
    clip: bool,
    extrapolation: Tensor | None = None,
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
        extrapolation=torch.zeros_like(noisy) if extrapolation is None else extrapolation,
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
    multistep: bool = False,
) -> Plan:
    """DDIM (arXiv 2010.02502, eq. 12 and 16), each step going to the step really visited next.

    Where x_0 is clipped, the noise is recomputed from it, so that (x_0, noise) still gives x_t: as
    in the code of OpenAI and lucidrains; diffusers does so with `use_clipped_model_output=True`.

    DDIM is exact where x_0 is constant over a step. `multistep` takes what x_0 will be in the
    middle of the step, on the line in the log-SNR through this x_0 and the one before: that is
    DPM-Solver++(2M) (arXiv 2211.01095, algorithm 2), and with eta = 1 its form for the SDE. The
    first step has no x_0 before it, and the last one, to the image itself, has no middle.

    Args:
        diffusion: The process that the model was trained on.
        timesteps: Steps to visit; all if None.
        eta: Noise from 0, deterministic, to 1, ancestral with fixed_small.
        clip: Clip the predicted x_0 to [-1, 1].
        multistep: DPM-Solver++(2M), of second order, instead of DDIM, of first.

    Raises:
        ValueError: `eta` is not in [0, 1].
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta={eta}: needs a value in [0, 1]")
    kept = diffusion.respaced(timesteps, "fixed_small")  # what a network may say of it is not used
    chain = kept.chain
    variance = eta**2 * chain.beta_tilde
    # sqrt(1 - alpha_bar_prev - sigma^2) eps, eps being (x_t - sqrt(alpha_bar) x_0) over its scale.
    B = (1 - chain.alpha_bar_prev - variance).clamp(min=0).sqrt() / (1 - chain.alpha_bar).sqrt()
    A = chain.alpha_bar_prev.sqrt() - B * chain.alpha_bar.sqrt()
    extrapolation = torch.zeros_like(A)
    if multistep:
        width = -chain.snr.log().diff()  # of the steps, from the cleanest up, but for the last one
        extrapolation[1:-1] = width[:-1] / (2 * width[1:])
    return _plan(kept, A, B, variance.sqrt(), False, clip, extrapolation)


def advance(
    x: Tensor,
    output: Tensor,
    x0_before: Tensor,
    row: Tensor,
    t: Tensor,
    seed: int | Tensor,
    index: Tensor,
    *,
    learned: bool,
    clip: bool,
    stochastic: bool,
    multistep: bool,
) -> tuple[Tensor, Tensor]:
    """One step: from x_t and the network's output to x_prev and x0, in the precision of x.

    Args:
        x: State, shape (B, C, H, W).
        output: The network's output at (x, t).
        x0_before: x0 of the step before; anything finite at the first.
        row: This step's row of the plan's table, its `Coefficients`.
        t: This step's number, a 0-dim tensor: also the number of its stream of noise.
        seed: Of the noise.
        index: Numbers of the samples, int64, shape (B,).
        learned: As in the plan.
        clip: As in the plan.
        stochastic: Whether to draw noise at all.
        multistep: Whether to look at `x0_before` at all.
    """
    channels = x.shape[1]
    step = Coefficients(*row.unbind())
    output = output.to(x.dtype)
    x0 = step.x0_of_xt * x + step.x0_of_output * output[:, :channels]
    x0 = x0.clamp(-1, 1) if clip else x0
    middle = x0 + step.extrapolation * (x0 - x0_before) if multistep else x0
    mean = step.prev_x0 * middle + step.prev_xt * x
    if not stochastic:
        return mean, x0
    noise = normal(seed, index, t, tuple(x.shape[1:])).to(x.dtype)
    if learned:
        fraction = (output[:, channels:] + 1) / 2
        low, high = step.log_beta_tilde, step.log_beta
        return mean + step.noisy * torch.exp(0.5 * (low + fraction * (high - low))) * noise, x0
    return mean + step.sigma * noise, x0


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
    flags = {name: getattr(plan, name) for name in ("learned", "clip", "stochastic", "multistep")}
    x0 = x
    steps: Iterable[tuple[Tensor, Tensor]] = list(
        zip(timesteps.unbind(), table.unbind(), strict=True)
    )
    if progress:
        from tqdm import tqdm

        steps = tqdm(steps, desc="sampling", unit="step")
    for t, row in steps:
        output = predict(x, t.expand(len(x)))
        x, x0 = update(x, output, x0, row, t, key, index, **flags)
        yield x


def initial_noise(seed: int, index: Tensor, shape: tuple[int, ...], diffusion: Diffusion) -> Tensor:
    """Noise of stream T, which no step uses: where sampling starts, and what interpolation adds."""
    return normal(seed, index, int(diffusion.chain.timesteps[-1]) + 1, shape)
