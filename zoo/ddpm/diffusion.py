"""The diffusion process of a DDPM: noising, what the network predicts, its loss, the reverse step.

Shapes: images x_BCHW in [-1, 1], steps t_B int64 in 0 ... S-1 (steps of the chain, which are those
of the network unless the chain was respaced).
"""

import math
from collections.abc import Callable
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor, nn

from zoo.ddpm.gaussian import CDF, discretized_log_prob, normal_kl
from zoo.ddpm.schedule import Chain

Objective = Literal["eps", "x0", "v"]
Variance = Literal["fixed_small", "fixed_large", "zero", "learned_range"]
LossReduction = Literal["mean", "sum"]
Weighting = Literal["uniform", "min_snr"]


def check_choice(name: str, value: str, choices: Any) -> None:
    """Raises ValueError unless `value` is one of the Literal's `choices`."""
    if value not in get_args(choices):
        raise ValueError(f"{name}={value!r}: choose one of {', '.join(get_args(choices))}")


class Diffusion(nn.Module):
    """q(x_t | x_0), the loss, and p(x_{t-1} | x_t) as functions of the network's output.

    The tables are computed in float64 and are not part of the state dict, so that weights do not
    depend on the schedule; they keep their precision when the model is cast to another.

    Args:
        chain: Steps of the forward process.
        objective: What the network predicts: the noise eps (arXiv 2006.11239), the image x0, or
            v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x0 (arXiv 2202.00512).
        variance: Of the reverse step. fixed_large: beta_t; fixed_small: the posterior's; both with
            the posterior's second value at t = 0 (arXiv 2006.11239). zero: the post's greedy
            sampling. learned_range: between the two by a second half of the network's channels
            (arXiv 2102.09672, eq. 15).
        loss: mean over the pixels (Ho), or their sum (the post's author, archives/9152).
        weighting: uniform, or min_snr (arXiv 2303.09556).
        min_snr_gamma: Bound of the signal-to-noise ratio in min_snr.
        vlb_weight: Weight of the bound in bits/dim beside the loss for learned_range.
        levels: Grey levels of the data, for the decoder at t = 0.
        dtype: Of the tables.
    """

    sqrt_alpha_bar: Tensor
    sqrt_one_minus_alpha_bar: Tensor
    target_noise: Tensor
    target_x0: Tensor
    x0_of_xt: Tensor
    x0_of_output: Tensor
    posterior_x0: Tensor
    posterior_xt: Tensor
    log_beta_tilde: Tensor
    log_variance: Tensor
    log_beta: Tensor
    weight: Tensor
    timesteps: Tensor

    def __init__(
        self,
        chain: Chain,
        *,
        objective: Objective = "eps",
        variance: Variance = "fixed_large",
        loss: LossReduction = "mean",
        weighting: Weighting = "uniform",
        min_snr_gamma: float = 5.0,
        vlb_weight: float = 0.001,
        levels: int = 256,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        check_choice("objective", objective, Objective)
        check_choice("variance", variance, Variance)
        check_choice("loss", loss, LossReduction)
        check_choice("weighting", weighting, Weighting)
        if not min_snr_gamma > 0:
            raise ValueError(f"min_snr_gamma={min_snr_gamma}: must be positive")
        if not vlb_weight >= 0:
            raise ValueError(f"vlb_weight={vlb_weight}: must not be negative")
        if levels < 2:
            raise ValueError(f"levels={levels}: images have at least 2 grey levels")
        self.chain, self.dtype = chain, dtype
        self.objective, self.variance = objective, variance
        self.options: dict[str, Any] = {
            "loss": loss,
            "weighting": weighting,
            "min_snr_gamma": min_snr_gamma,
            "vlb_weight": vlb_weight,
            "levels": levels,
        }
        self.reduction, self.vlb_weight, self.levels = loss, vlb_weight, levels

        signal, noise = chain.alpha_bar.sqrt(), (1 - chain.alpha_bar).sqrt()
        one, zero = torch.ones_like(signal), torch.zeros_like(signal)
        target_noise, target_x0, x0_of_xt, x0_of_output = {
            "eps": (one, zero, 1 / signal, -noise / signal),
            "x0": (zero, one, zero, one),
            "v": (signal, -noise, signal, -noise),
        }[objective]
        log_beta_tilde = chain.beta_tilde_clipped.log()
        log_large = torch.cat([log_beta_tilde[:1], chain.beta[1:].log()])
        self.tables = {
            "sqrt_alpha_bar": signal,
            "sqrt_one_minus_alpha_bar": noise,
            "target_noise": target_noise,
            "target_x0": target_x0,
            "x0_of_xt": x0_of_xt,
            "x0_of_output": x0_of_output,
            "posterior_x0": chain.posterior_x0,
            "posterior_xt": chain.posterior_xt,
            "log_beta_tilde": log_beta_tilde,
            "log_variance": {"fixed_small": log_beta_tilde, "zero": zero - math.inf}.get(
                variance, log_large
            ),
            "log_beta": chain.beta.log(),
            "weight": self._weights(chain.snr, weighting, min_snr_gamma),
        }
        for name, table in self.tables.items():
            self.register_buffer(name, table.to(dtype), persistent=False)
        self.register_buffer("timesteps", chain.timesteps, persistent=False)

    def _weights(self, snr: Tensor, weighting: Weighting, gamma: float) -> Tensor:
        """Loss weights; min_snr weighs errors of x0 by min(SNR, gamma) (arXiv 2303.09556)."""
        if weighting == "uniform":
            return torch.ones_like(snr)
        # One unit of error of x0 is SNR units of eps and SNR + 1 of v.
        unit = {"eps": snr, "x0": torch.ones_like(snr), "v": snr + 1}[self.objective]
        return snr.clamp(max=gamma) / unit

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # 1 - alpha_bar would not survive bfloat16: follow to the device, but not to the precision.
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, table in self.tables.items():
            buffer = getattr(self, name)
            if buffer.dtype != self.dtype:
                setattr(self, name, table.to(self.dtype).to(buffer.device))
        return self

    def respaced(
        self, timesteps: list[int] | None = None, variance: Variance | None = None
    ) -> "Diffusion":
        """The same model on some of the steps (arXiv 2102.09672, section 4), on the same device.

        Args:
            timesteps: Steps to keep, in any order; all of them if None.
            variance: Another variance of the reverse step.

        Raises:
            ValueError: The network does not predict the variance that is asked for.
        """
        variance = variance or self.variance
        if variance == "learned_range" and self.variance != "learned_range":
            raise ValueError(f"variance=learned_range: this model was trained with {self.variance}")
        chain = self.chain if timesteps is None else self.chain.keep(timesteps)
        other = Diffusion(
            chain, objective=self.objective, variance=variance, dtype=self.dtype, **self.options
        )
        return other.to(self.weight.device)

    def _at(self, table: Tensor, t_B: Tensor, like_BCHW: Tensor) -> Tensor:
        return table[t_B].reshape(-1, *[1] * (like_BCHW.ndim - 1))

    def q_sample(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_t given x_0 and standard normal noise (arXiv 2006.11239, eq. 4)."""
        signal = self._at(self.sqrt_alpha_bar, t, x0)
        return signal * x0 + self._at(self.sqrt_one_minus_alpha_bar, t, x0) * noise

    def target(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """What the network ought to predict."""
        return self._at(self.target_noise, t, x0) * noise + self._at(self.target_x0, t, x0) * x0

    def split(self, output: Tensor, x_t: Tensor) -> tuple[Tensor, Tensor | None]:
        """The prediction and, only if it has further channels, the fraction of learned_range.

        Both in the precision of x_t, whatever the network computed in.
        """
        output, channels = output.to(x_t.dtype), x_t.shape[1]
        return output[:, :channels], output[:, channels:] if output.shape[1] > channels else None

    def predict_x0(self, prediction: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The image x_0 that the prediction means, not clipped."""
        a, b = self._at(self.x0_of_xt, t, x_t), self._at(self.x0_of_output, t, x_t)
        return a * x_t + b * prediction

    def posterior_mean(self, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Mean of q(x_{t-1} | x_t, x_0) (arXiv 2006.11239, eq. 7)."""
        a, b = self._at(self.posterior_x0, t, x_t), self._at(self.posterior_xt, t, x_t)
        return a * x0 + b * x_t

    def reverse(
        self, output: Tensor, x_t: Tensor, t: Tensor, *, clip: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of p(x_{t-1} | x_t), of the shape of x_t.

        Args:
            output: The network's output at (x_t, timesteps[t]).
            x_t: Noisy images.
            t: Steps.
            clip: Clip the predicted x_0 to [-1, 1].
        """
        prediction, fraction = self.split(output, x_t)
        x0 = self.predict_x0(prediction, x_t, t)
        mean = self.posterior_mean(x0.clamp(-1, 1) if clip else x0, x_t, t)
        if self.variance != "learned_range":
            return mean, self._at(self.log_variance, t, x_t).expand_as(x_t)
        assert fraction is not None
        low, high = self._at(self.log_beta_tilde, t, x_t), self._at(self.log_beta, t, x_t)
        # arXiv 2102.09672, eq. 15, with the output in [-1, 1] as the fraction in [0, 1].
        return mean, low + (fraction + 1) / 2 * (high - low)

    def bound_term(
        self,
        output: Tensor,
        x0: Tensor,
        x_t: Tensor,
        t: Tensor,
        *,
        clip: bool = True,
        cdf: CDF = "tanh",
    ) -> Tensor:
        """L_{t-1} of the variational bound, or the decoder's L_0 where t = 0, in bits/dim, (B,)."""
        mean, log_variance = self.reverse(output, x_t, t, clip=clip)
        kl = normal_kl(
            self.posterior_mean(x0, x_t, t),
            self._at(self.log_beta_tilde, t, x_t),
            mean,
            log_variance,
        )
        nll = -discretized_log_prob(x0, mean, log_variance, self.levels, cdf)
        term = torch.where((t == 0).reshape(-1, *[1] * (x_t.ndim - 1)), nll, kl)
        return term.flatten(1).mean(1) / math.log(2)

    def prior_term(self, x0: Tensor) -> Tensor:
        """L_T = KL(q(x_T | x_0) || N(0, I)) of the variational bound, in bits/dim, shape (B,)."""
        # sqrt(1 - alpha_bar) is so near 1 at T that only the float64 table has the digits of its
        # logarithm, of which the KL is a difference.
        alpha_bar = self.chain.alpha_bar[-1].item()
        rest = -math.log1p(-alpha_bar) - alpha_bar
        kl = 0.5 * (rest + alpha_bar * x0.flatten(1) ** 2)
        return kl.mean(1) / math.log(2)

    def loss(self, output: Tensor, x0: Tensor, x_t: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Training loss of each item, shape (B,), in the precision of x_t.

        For learned_range this is the hybrid loss of arXiv 2102.09672, eq. 16: the bound, of which
        one step stands for all T, trains the variance alone.
        """
        prediction, fraction = self.split(output, x_t)
        error = ((prediction - self.target(x0, t, noise)) ** 2).flatten(1)
        loss = self.weight[t] * (error.mean(1) if self.reduction == "mean" else error.sum(1))
        if fraction is None:
            return loss
        frozen = torch.cat([prediction.detach(), fraction], dim=1)
        bound = len(self.chain) * self.bound_term(frozen, x0, x_t, t, clip=False)
        return loss + self.vlb_weight * bound * (1 if self.reduction == "mean" else error.shape[1])
