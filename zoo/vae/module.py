"""VAE as a LightningModule: Gaussian codes."""

from typing import Any

from zoo.ranges import Count, InsideUnit, NonNegative, Positive
from zoo.vae.batch_norm import BatchNormMode, GaussianHead, StdForm
from zoo.vae.page import Pages


class VAE(Pages):
    """Variational autoencoder of images with a Gaussian posterior and prior.

    arXiv 1312.6114; importance weighted arXiv 1509.00519; density estimation
    kexue.fm/archives/8791; batch normalisation of the posterior arXiv 2004.12585 and
    kexue.fm/archives/7381.

    >>> model = VAE(image_size=8, latent_dim=2, hidden=[16])
    >>> model.reconstruct(model.sample(3)).shape
    torch.Size([3, 1, 8, 8])

    Args:
        latent_dim: Dimensions d of the code z.
        posterior_std: How the encoder says a standard deviation: exp or softplus of its output.
        batch_norm: Normalise the posterior by batch, so that the KL cannot vanish. paper: the
            means, with a fixed scale; su: means and deviations, as in the post.
        bn_gamma: Scale of paper: the KL of a batch is at least latent_dim * bn_gamma^2 / 2.
        bn_tau: Constant tau of su, in (0, 1): the KL of a batch is at least latent_dim * bn_tau
            / 2.
        bn_eps: Added to a batch's variance.
        image: Arguments of `ImageVAE`.
    """

    def __init__(
        self,
        *,
        latent_dim: Count = 50,
        posterior_std: StdForm = "exp",
        batch_norm: BatchNormMode = "none",
        bn_gamma: Positive = 0.6,
        bn_tau: InsideUnit = 0.5,
        bn_eps: NonNegative = 1e-5,
        **image: Any,
    ) -> None:
        super().__init__(**image)
        norm: Any = {"batch_norm": batch_norm, "gamma": bn_gamma, "tau": bn_tau, "eps": bn_eps}
        self.build(GaussianHead(self.features, latent_dim, std=posterior_std, **norm))
