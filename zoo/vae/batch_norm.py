"""Batch normalisation of a posterior's parameters, so that its KL cannot vanish.

kexue.fm/archives/7381 and arXiv 2004.12585. Over a batch, the mean over x of KL(q(z|x) || N(0, I))
is at least d (b^2 + g^2) / 2 where the posterior means have mean b and variance g^2 in the batch.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from zoo.ranges import check_ranges
from zoo.training.distributed import gather_with_grad
from zoo.vae.posteriors import GaussianPosterior, Space, full_precision

BatchNormMode = Literal["none", "paper", "su"]
StdForm = Literal["exp", "softplus"]


class BatchStatistics(nn.Module):
    """(x - mean) / sqrt(var + eps) by the statistics of the batch of all processes.

    As torch's BatchNorm1d and SyncBatchNorm without their weight and bias, on any device: with
    statistics of a part of the batch the bound would hold for that part only. In eval mode the
    running statistics are used, and the bound holds as far as they are the data's.

    >>> BatchStatistics(1)(torch.tensor([[1.0], [3.0]])).round().tolist()
    [[-1.0], [1.0]]
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, features: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_var", torch.ones(features))

    def forward(self, x: Tensor) -> Tensor:
        """(B, d) to (B, d); ValueError for one item in training, whose variance says nothing."""
        x = full_precision(x)
        if not self.training:
            return (x - self.running_mean) * (self.running_var + self.eps).rsqrt()
        moments = torch.stack([x.mean(0), x.var(0, correction=0)])[None]
        means, variances = gather_with_grad(moments).unbind(1)  # (processes, d) each
        mean = means.mean(0)
        var = (variances + (means - mean).square()).mean(0)
        count = len(means) * len(x)
        if count < 2:
            raise ValueError("batch_norm needs at least two items a batch: raise --data.batch_size")
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * (count / (count - 1)), self.momentum)
        return (x - mean) * (var + self.eps).rsqrt()


class GaussianHead(nn.Module):
    """Linear maps of features to a Gaussian posterior, with batch normalisation if asked.

    >>> head = GaussianHead(8, 4, batch_norm="paper", gamma=0.5)
    >>> round(head.kl_bound(), 3)  # d gamma^2 / 2
    0.5

    Args:
        features: Numbers that come in.
        latent_dim: Dimensions of z.
        std: exp of the output (Burda et al.) or its softplus (Davidson et al.).
        batch_norm: none; paper: of the means, with the fixed scale gamma and a trained shift
            (arXiv 2004.12585); su: of means and standard deviations, with scales whose squares add
            up to 1 (kexue.fm/archives/7381).
        gamma: Scale g of paper: the KL is at least d g^2 / 2.
        tau: Constant tau of su, in (0, 1): the KL is at least d tau / 2.
        eps: Added to the batch's variance.
    """

    space: Space = "euclidean"

    def __init__(
        self,
        features: int,
        latent_dim: int,
        *,
        std: StdForm = "exp",
        batch_norm: BatchNormMode = "none",
        gamma: float = 0.6,
        tau: float = 0.5,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        check_ranges(GaussianHead, {"std": std}, "posterior_")
        check_ranges(GaussianHead, {"batch_norm": batch_norm})
        if batch_norm == "paper" and gamma <= 0:
            raise ValueError(f"bn_gamma={gamma}: must be positive, or the KL may vanish")
        if batch_norm == "su" and not 0 < tau < 1:
            raise ValueError(f"bn_tau={tau}: must be between 0 and 1")
        self.std, self.batch_norm, self.gamma, self.tau = std, batch_norm, gamma, tau
        self.noise_dim = self.kl_parts = latent_dim
        self.blocks = [latent_dim]
        self.mean = nn.Linear(features, latent_dim, bias=batch_norm == "none")
        self.scale = nn.Linear(features, latent_dim, bias=batch_norm != "su")
        if batch_norm != "none":
            self.mean_norm = BatchStatistics(latent_dim, eps)
        if batch_norm == "paper":
            self.shift = nn.Parameter(torch.zeros(latent_dim))
        if batch_norm == "su":
            self.scale_norm = BatchStatistics(latent_dim, eps)
            self.theta = nn.Parameter(torch.zeros(latent_dim))

    def kl_bound(self) -> float:
        """The KL that a training batch cannot go below, in nats."""
        d = self.mean.out_features
        return {"none": 0.0, "paper": self.gamma**2, "su": self.tau}[self.batch_norm] * d / 2

    def prior(self, noise: Tensor) -> Tensor:
        """Draws from p(z) = N(0, I): the noise itself, (n, d)."""
        return noise

    def forward(self, features: Tensor) -> GaussianPosterior:
        """The posteriors of features (B, features)."""
        if self.batch_norm == "su":
            return self._balanced(features)
        mean = full_precision(self.mean(features))
        log_std = full_precision(self.scale(features))
        if self.std == "softplus":
            # Below -80 a softplus is e^x, which float32 soon rounds to 0.
            log_std = nn.functional.softplus(log_std.clamp_min(-80)).log()
        if self.batch_norm == "paper":
            mean = self.gamma * self.mean_norm(mean) + self.shift
        return GaussianPosterior(mean, log_std)

    def _balanced(self, features: Tensor) -> GaussianPosterior:
        """The post's form: E[mean] = 0 and E[mean^2] + E[std^2] = 1 in every batch.

        Its std may be negative, which says the same as its magnitude, and passes through 0, where
        -log std^2 is large: hence the 1e-8.
        """
        share = (1 - self.tau) * torch.sigmoid(self.theta)
        mean = (self.tau + share).sqrt() * self.mean_norm(self.mean(features))
        std = (1 - self.tau - share).sqrt() * self.scale_norm(self.scale(features))
        return GaussianPosterior(mean, 0.5 * (std.square() + 1e-8).log())
