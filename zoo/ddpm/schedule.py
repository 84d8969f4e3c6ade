"""Noise schedules and the steps that a sampler keeps of them, all in float64 on the host.

Steps are numbered t = 0 ... T-1 (the papers' t minus one); alpha_bar at t = -1 is 1.
Written in Ho's letters (arXiv 2006.11239). The post's (kexue.fm/archives/9119) are their roots:
its alpha_t is sqrt(1 - beta_t), its beta_t is sqrt(beta_t), and its bars sqrt(alpha_bar_t) and
sqrt(1 - alpha_bar_t).
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

Schedule = Literal["linear", "post", "cosine"]
Spacing = Literal["leading", "trailing", "linspace", "quadratic", "logsnr"]

BETA_START, BETA_END = 1e-4, 0.02
# Log-SNR where logsnr begins at the latest; Ho's last step has -10.12. A noisier step, as cosine
# schedules have at their end, sees noise alone, and is better spent elsewhere.
NOISIEST = -10.2
# Where it ends at the earliest: noise of 0.03, which one evaluation takes away. Steps below it, of
# which a cosine schedule has twelve, bring nothing to ten evaluations (docs/results/ddpm.md).
CLEANEST = 7.0


def make_betas(
    schedule: Schedule = "linear",
    timesteps: int = 1000,
    beta_start: float = BETA_START,
    beta_end: float = BETA_END,
) -> Tensor:
    """Variances beta_t of the forward process, float64, shape (T,).

    linear: from beta_start to beta_end (arXiv 2006.11239, section 4).
    post: beta_end * t / T for t = 1 ... T (kexue.fm/archives/9119: alpha_t = sqrt(1 - 0.02 t / T)).
    cosine: alpha_bar = cos^2(pi/2 (t/T + 0.008) / 1.008), beta at most 0.999 (arXiv 2102.09672,
    eq. 17).

    Nothing is rescaled for T other than 1000: with fewer steps give larger betas, such that
    alpha_bar at T is still small.

    Args:
        schedule: linear, post or cosine.
        timesteps: Number of steps T.
        beta_start: First beta of the linear schedule.
        beta_end: Last beta of the linear and post schedules.
    """
    T = timesteps
    if T < 2:
        raise ValueError(f"timesteps={T}: a diffusion needs at least 2 steps")
    if not 0 < beta_start <= beta_end < 1:
        raise ValueError(
            f"beta_start={beta_start}, beta_end={beta_end}: need 0 < beta_start <= beta_end < 1"
        )
    if schedule != "linear" and beta_start != BETA_START:
        raise ValueError(f"beta_start={beta_start} has no effect on schedule={schedule}: drop it")
    if schedule == "cosine" and beta_end != BETA_END:
        raise ValueError(f"beta_end={beta_end} has no effect on schedule=cosine: drop it")
    if schedule == "linear":
        return torch.linspace(beta_start, beta_end, T, dtype=torch.float64)
    t = torch.arange(1, T + 1, dtype=torch.float64)
    if schedule == "post":
        return beta_end * t / T
    if schedule == "cosine":
        f = torch.cos((torch.cat([t.new_zeros(1), t]) / T + 0.008) / 1.008 * math.pi / 2) ** 2
        return (1 - f[1:] / f[:-1]).clamp(max=0.999)
    raise ValueError(f"schedule={schedule!r}: choose one of {', '.join(get_args(Schedule))}")


def spaced_timesteps(
    timesteps: int, steps: int, spacing: Spacing = "trailing", log_snr: Tensor | None = None
) -> list[int]:
    """The steps t that a sampler visits, from the noisiest down.

    leading: floor(i T / S), i = S-1 ... 0: ends at 0, but starts below T-1.
    trailing: round(T - i T / S) - 1: starts at T-1, but ends above 0.
    linspace: both ends, S >= 2.
    quadratic: floor(linspace(0, sqrt(0.8 T), S)^2) (arXiv 2010.02502, appendix D.2): dense at the
    clean end, where steps that fall on one another are visited once, so there may be fewer than S.
    logsnr: the steps nearest to S log-SNRs at equal distances (as arXiv 2206.00927), each at least
    one noisier than the next: both ends, but for those beyond NOISIEST and CLEANEST.

    Args:
        timesteps: Number of steps T of the process.
        steps: Number of steps S to visit.
        spacing: How to choose them.
        log_snr: Logarithm of the signal-to-noise ratio of each step, shape (T,), for logsnr.

    Raises:
        ValueError: `steps` is out of range, or the spacing is unknown.
    """
    T, S = timesteps, steps
    if not 1 <= S <= T:
        raise ValueError(f"steps={S}: sample in 1 to {T} steps, as the model has timesteps={T}")
    if S == 1 and spacing in ("linspace", "quadratic"):
        raise ValueError(f"steps=1: {spacing} spacing needs at least 2 steps; use trailing")
    if spacing == "leading":
        kept = [i * T // S for i in range(S)]
    elif spacing == "trailing":
        # Integer floor(x + 1/2), as floats would make halves depend on their rounding.
        kept = [(2 * i * T + S) // (2 * S) - 1 for i in range(1, S + 1)]
    elif spacing == "linspace":
        kept = [(2 * i * (T - 1) + S - 1) // (2 * (S - 1)) for i in range(S)]
    elif spacing == "quadratic":
        # (i / (S-1))^2 * 0.8 T, exactly.
        kept = [4 * T * i**2 // (5 * (S - 1) ** 2) for i in range(S)]
    elif spacing == "logsnr":
        assert log_snr is not None
        noisiest = max(log_snr[-1].item(), NOISIEST)
        cleanest = max(noisiest, min(log_snr[0].item(), CLEANEST))
        levels = torch.linspace(noisiest, cleanest, S, dtype=torch.float64).flip(0)
        nearest = torch.bucketize(-levels, -(log_snr[1:] + log_snr[:-1]) / 2)
        i = torch.arange(S)
        kept = ((nearest - i).cummax(0).values.clamp(max=T - S) + i).tolist()
    else:
        raise ValueError(f"spacing={spacing!r}: choose one of {', '.join(get_args(Spacing))}")
    return sorted(set(kept), reverse=True)


@dataclass(frozen=True)
class Chain:
    """A forward process on steps in ascending order, and its posterior q(x_{t-1} | x_t, x_0).

    Args:
        alpha_bar: Product of the 1 - beta up to each step, float64, shape (S,).
        timesteps: Number of each step in the whole process, int64, shape (S,): what the network is
            told.
    """

    alpha_bar: Tensor
    timesteps: Tensor

    @classmethod
    def from_betas(cls, betas: Tensor) -> "Chain":
        """The whole process.

        Raises:
            ValueError: There is no beta, or one is not between 0 and 1.
        """
        good = betas.ndim == 1 and len(betas) > 0
        if not good or not (betas.is_meta or bool(((betas > 0) & (betas < 1)).all())):
            raise ValueError("betas are one or more numbers between 0 and 1, these not included")
        return cls(torch.cumprod(1 - betas.double(), 0), torch.arange(len(betas)))

    def keep(self, timesteps: list[int]) -> "Chain":
        """The process that jumps over all other steps (arXiv 2102.09672, eq. 19)."""
        steps = sorted(set(timesteps))
        if not steps or not 0 <= steps[0] <= steps[-1] < len(self):
            raise ValueError(f"keep one or more of the steps 0 to {len(self) - 1}")
        kept = torch.tensor(steps)
        return Chain(self.alpha_bar[kept], self.timesteps[kept])

    def __len__(self) -> int:
        return len(self.alpha_bar)

    @property
    def alpha_bar_prev(self) -> Tensor:
        """alpha_bar one step earlier; 1 before the first."""
        return torch.cat([self.alpha_bar.new_ones(1), self.alpha_bar[:-1]])

    @property
    def beta(self) -> Tensor:
        """Variance of the jump from the step before."""
        return 1 - self.alpha_bar / self.alpha_bar_prev

    @property
    def beta_tilde(self) -> Tensor:
        """Posterior variance, eq. 7 of arXiv 2006.11239; 0 at the first step."""
        return self.beta * (1 - self.alpha_bar_prev) / (1 - self.alpha_bar)

    @property
    def beta_tilde_clipped(self) -> Tensor:
        """Posterior variance, with its second value in place of the 0 at the first step."""
        tail = self.beta_tilde[1:]
        return torch.cat([tail[:1] if len(tail) else self.beta, tail])

    @property
    def posterior_x0(self) -> Tensor:
        """Coefficient of x_0 in the posterior mean, eq. 7 of arXiv 2006.11239."""
        return self.beta * self.alpha_bar_prev.sqrt() / (1 - self.alpha_bar)

    @property
    def posterior_xt(self) -> Tensor:
        """Coefficient of x_t in the posterior mean, eq. 7 of arXiv 2006.11239."""
        return (1 - self.alpha_bar_prev) * (1 - self.beta).sqrt() / (1 - self.alpha_bar)

    @property
    def snr(self) -> Tensor:
        """Signal-to-noise ratio alpha_bar / (1 - alpha_bar)."""
        return self.alpha_bar / (1 - self.alpha_bar)
