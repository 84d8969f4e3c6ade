"""Generator and critic by name, with the widths of the published models as defaults."""

from typing import Literal, get_args

from torch import nn

from zoo.wgan.networks.dcgan import DCGANCritic, DCGANGenerator
from zoo.wgan.networks.layers import Activation, Init, init_weights
from zoo.wgan.networks.mlp import MLPCritic, MLPGenerator
from zoo.wgan.networks.resnet import ResNetCritic, ResNetGenerator

Network = Literal["mlp", "dcgan", "resnet"]

# GN-GAN's, by the side of an image. 64: SN-GAN's as torch-mimicry has it.
_RESNETS: dict[int, tuple[list[int], list[int], int]] = {
    32: ([256] * 4, [128] * 4, 2),
    48: ([512, 256, 128, 64], [64, 128, 256, 512], 4),
    64: ([1024, 512, 256, 128, 64], [64, 128, 256, 512, 1024], 5),
    128: ([1024, 1024, 512, 256, 128, 64], [64, 128, 256, 512, 1024, 1024], 5),
}


def make_networks(
    network: Network,
    shape: tuple[int, ...],
    *,
    latent_dim: int,
    num_classes: int = 0,
    generator_widths: list[int] | None = None,
    critic_widths: list[int] | None = None,
    critic_halvings: int | None = None,
    critic_activation: Activation | None = None,
    critic_batch_norm: bool = False,
    critic_pooling: Literal["mean", "sum"] = "mean",
    critic_bias: bool = True,
    init: Init | None = None,
) -> tuple[nn.Module, nn.Module]:
    """Generator (z, labels) -> x and critic (x, labels) -> (B,).

    >>> import torch
    >>> generator, critic = make_networks("dcgan", (1, 8, 8), latent_dim=4, critic_widths=[8, 16])
    >>> critic(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2])

    `shape` is that of an image, (C, H, W), or of a point, (D,); the others are options of `WGAN`.

    Raises:
        ValueError: An option does not fit the network or the size.
    """
    if network not in get_args(Network):
        raise ValueError(f"network={network!r}: choose mlp, dcgan or resnet")
    if critic_batch_norm and network != "dcgan":
        raise ValueError(f"critic_batch_norm has no effect on network={network}: use dcgan")
    if critic_halvings is not None and network != "resnet":
        raise ValueError(f"critic_halvings has no effect on network={network}: use resnet")
    if network != "resnet" and (critic_pooling != "mean" or not critic_bias):
        raise ValueError(
            f"critic_pooling and critic_bias have no effect on network={network}: use resnet"
        )
    for name, numbers in (
        ("size of the data", shape),
        ("generator_widths", generator_widths),
        ("critic_widths", critic_widths),
        ("critic_halvings", None if critic_halvings is None else [critic_halvings]),
    ):
        if numbers is not None and (not numbers or min(numbers) < 1):
            raise ValueError(f"{name}={list(numbers)}: give numbers of 1 or more")
    if num_classes < 0 or (network != "mlp" and len(shape) != 3):
        raise ValueError(
            f"num_classes={num_classes}, shape {list(shape)}: need 0 or more classes, and for "
            f"network={network} channels, height and width"
        )
    if network == "mlp" and num_classes:
        raise ValueError(f"num_classes={num_classes}: network=mlp takes no classes")
    generator: nn.Module
    critic: nn.Module
    channels, size = shape[0], (shape[-2], shape[-1]) if network != "mlp" else (1, 1)
    if network == "mlp":
        generator = MLPGenerator(latent_dim, generator_widths or [512] * 3, shape[0])
        critic = MLPCritic(shape[0], critic_widths or [512] * 3, critic_activation or "relu")
    elif network == "dcgan":
        g, d = generator_widths or [512, 256, 128, 64], critic_widths or [64, 128, 256, 512]
        for name, widths in (("generator", g), ("critic", d)):
            _check_divisible(size, len(widths) - 1, f"{name}_widths={widths}")
        generator = DCGANGenerator(latent_dim, g, size, channels, num_classes)
        activation = critic_activation or "leaky_relu"
        critic = DCGANCritic(d, size, channels, num_classes, activation, critic_batch_norm)
    else:
        g, d, halvings = _resnet_widths(size, generator_widths, critic_widths, critic_halvings)
        _check_divisible(size, len(g) - 1, f"generator_widths={g}")
        _check_divisible(size, halvings, f"critic_halvings={halvings}")
        if not 1 <= halvings <= len(d):
            raise ValueError(f"critic_halvings={halvings}: from 1 to the {len(d)} blocks")
        generator = ResNetGenerator(latent_dim, g, size, channels, num_classes)
        end = (critic_activation or "relu", critic_pooling, critic_bias)
        critic = ResNetCritic(d, halvings, channels, num_classes, *end)
    for part in (generator, critic):
        init_weights(part, init or ("normal" if network == "dcgan" else "kaiming"))
    return generator, critic


def _resnet_widths(
    size: tuple[int, int], g: list[int] | None, d: list[int] | None, halvings: int | None
) -> tuple[list[int], list[int], int]:
    if g and d and halvings:
        return g, d, halvings
    if size[0] != size[1] or size[0] not in _RESNETS:
        raise ValueError(
            f"images of {size[0]}x{size[1]}: network=resnet knows the sides "
            f"{', '.join(map(str, _RESNETS))}; for others set --model.generator_widths, "
            "--model.critic_widths and --model.critic_halvings"
        )
    own = _RESNETS[size[0]]
    return g or own[0], d or own[1], halvings or own[2]


def _check_divisible(size: tuple[int, int], halvings: int, what: str) -> None:
    factor = 2**halvings
    if size[0] % factor or size[1] % factor:
        raise ValueError(
            f"{what} halve an image {halvings} times: {size[0]}x{size[1]} is not divisible by "
            f"{factor}"
        )
