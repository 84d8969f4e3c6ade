"""Small critics for the tests."""

import torch
from torch import nn

from zoo.wgan.networks.by_name import make_networks


def mlp_critic(activation="relu", dim=3, seed=0):
    torch.manual_seed(seed)
    _, critic = make_networks(
        "mlp", (dim,), latent_dim=2, critic_widths=[16, 16], critic_activation=activation
    )
    for name, p in critic.named_parameters():
        if "bias" in name:
            nn.init.normal_(p, std=0.3)
    return critic.double()


def image_critic(network="dcgan", num_classes=0, seed=0, **options):
    """Of 2x8x8 images; weights of a size that makes |f| and its gradient comparable."""
    torch.manual_seed(seed)
    widths = {"dcgan": {"critic_widths": [6, 8]}, "resnet": {"critic_widths": [6, 6, 6]}}[network]
    if network == "resnet":
        widths |= {"critic_halvings": 2, "generator_widths": [6, 6]}
    else:
        widths |= {"generator_widths": [6, 4]}
    _, critic = make_networks(
        network,
        (2, 8, 8),
        latent_dim=4,
        num_classes=num_classes,
        init="kaiming",
        **widths,
        **options,
    )
    for name, p in critic.named_parameters():
        if "bias" in name:
            nn.init.normal_(p, std=0.3)
    return critic.double()


class Linear(nn.Module):
    """f(x) = <w, x>."""

    piecewise_linear = True

    def __init__(self, w):
        super().__init__()
        self.w = nn.Parameter(w)

    def forward(self, x, labels=None):
        return x.flatten(1) @ self.w


def points(n, *shape, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, *shape, generator=generator, dtype=torch.float64)
