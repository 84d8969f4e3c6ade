"""VMFVAE as a LightningModule: codes on spheres."""

from typing import Any

from zoo.ranges import AtLeastTwo, Positive
from zoo.vae.page import Pages
from zoo.vae.spherical_head import Concentration, SphericalHead


class VMFVAE(Pages):
    """Variational autoencoder of images with a von Mises-Fisher posterior and a uniform prior.

    arXiv 1804.00891 and kexue.fm/archives/8404; products of spheres arXiv 1910.02912.

    >>> model = VMFVAE(image_size=8, spheres=[3], concentration="fixed", kappa=20.0, hidden=[16])
    >>> model.manifold(rows=2, columns=4).shape
    torch.Size([2, 4, 1, 8, 8])

    Args:
        spheres: Numbers of each part of the code: [11] is one sphere in R^11, of which papers that
            count its own dimensions say d = 10; [4, 4] is a product of two in R^4.
        concentration: fixed: kappa is a constant, and with it the KL; target_kl: the constant that
            has this KL; learned: kappa = softplus + 1 of the encoder's output.
        kappa: Concentration on every sphere, for concentration=fixed.
        target_kl: KL on each sphere in nats, for concentration=target_kl.
        image: Arguments of `ImageVAE`.
    """

    def __init__(
        self,
        *,
        spheres: list[AtLeastTwo] = [11],  # noqa: B006  # never changed; a list, as YAML has it
        concentration: Concentration = "learned",
        kappa: Positive | None = None,
        target_kl: Positive | None = None,
        **image: Any,
    ) -> None:
        super().__init__(**image)
        head = SphericalHead(
            self.features, spheres, concentration=concentration, kappa=kappa, target_kl=target_kl
        )
        self.build(head)
