"""Lower bounds of log p(x) from log weights, and estimators of their gradients.

A log weight is log w = log p(x|z) + log p(z) - log q(z|x) with z drawn from q(z|x); log weights are
(K, B) for K draws of each of B data. A bound is what is reported; the estimators have its value and
another gradient of the same, or for stl nearly the same, expectation.
"""

import math
from typing import Literal

from torch import Tensor

Objective = Literal["elbo", "iwae", "dreg", "stl"]


def elbo(log_weights: Tensor) -> Tensor:
    """Mean of the log weights, (B,): the evidence lower bound (arXiv 1312.6114, eq. 2)."""
    return log_weights.mean(0)


def iwae(log_weights: Tensor) -> Tensor:
    """Logarithm of the mean weight, (B,) (arXiv 1509.00519, eq. 8; kexue.fm/archives/8791).

    Its expectation grows with K, from the ELBO to log p(x). The signal-to-noise ratio of the
    encoder's gradient falls as 1 / sqrt(K) (arXiv 1802.04537): dreg has not got that.
    """
    return log_weights.logsumexp(0) - math.log(len(log_weights))


def dreg(log_weights: Tensor, z: Tensor) -> Tensor:
    """The value of `iwae` with the doubly reparameterised gradient (arXiv 1810.04152, eq. 8).

    The decoder gets sum_i v_i d log w_i with v_i the normalised weight, and the encoder, through
    z alone, sum_i v_i^2 d log w_i / dz_i dz_i. The weights (K, B) have log q(z|x) of constant
    parameters (`draw(noise, path_only=True)`); the gradient of the draws z (K, B, d) is changed in
    place.
    """
    normalised = log_weights.detach().softmax(0)
    if z.requires_grad:
        # What arrives at z_i is v_i d log w_i / dz_i; it goes on to the encoder v_i times.
        z.register_hook(  # type: ignore[no-untyped-call]
            lambda gradient: gradient * normalised[..., None]
        )
    surrogate = (normalised * log_weights).sum(0)
    return iwae(log_weights).detach() + (surrogate - surrogate.detach())


def bound(objective: Objective, log_weights: Tensor, z: Tensor) -> Tensor:
    """The bound to maximise, (B,), by the name of the objective.

    stl is `iwae` of log weights without the score of q, which for K = 1 is unbiased and without
    noise at the optimum (arXiv 1703.09194); for K > 1 it is biased (arXiv 1810.04152, section 3).
    For dreg and stl the draws are those with `path_only=True`.
    """
    if objective == "elbo":
        return elbo(log_weights)
    if objective == "dreg":
        return dreg(log_weights, z)
    return iwae(log_weights)


def path_only(objective: Objective) -> bool:
    """Whether the objective wants draws whose log q(z|x) has no gradient in q's parameters."""
    return objective in ("dreg", "stl")
