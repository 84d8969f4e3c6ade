"""Which critics a constraint can act on: piecewise linear ones, and those without batch statistics.

The closed form of gradient normalisation holds where grad_x f is constant around x: a network of
linear layers, average and max pooling, ReLU and LeakyReLU.
"""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

_PIECEWISE_LINEAR = (
    nn.Linear,
    nn.Conv2d,
    nn.ReLU,
    nn.LeakyReLU,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.MaxPool2d,
    nn.Flatten,
    nn.Identity,
    nn.Embedding,  # of the label, which x does not move
)
_CONTAINERS = (nn.Sequential, nn.ModuleList)


def check_piecewise_linear(critic: nn.Module, constraint: str) -> None:
    """Refuses a critic with a layer that is not known to be piecewise linear.

    A module of one's own counts as a container of its children if it says so by the attribute
    `piecewise_linear = True`: what its `forward` does between them cannot be seen from here. The
    ValueError names the constraint and the first such layer.
    """
    for name, layer in critic.named_modules():
        if isinstance(layer, _PIECEWISE_LINEAR) or type(layer) in _CONTAINERS:
            continue
        if getattr(layer, "piecewise_linear", False):
            continue
        where = f"critic.{name}" if name else "the critic"
        raise ValueError(
            f"lipschitz={constraint} needs a piecewise linear critic, and {where} is a "
            f"{type(layer).__name__}: use critic_activation relu or leaky_relu, or another "
            "constraint such as gp"
        )


def check_no_batch_statistics(critic: nn.Module, constraint: str) -> None:
    """Refuses batch normalisation in a critic whose gradient is wanted sample by sample."""
    for name, layer in critic.named_modules():
        if isinstance(layer, _BatchNorm):
            raise ValueError(
                f"lipschitz={constraint} takes the gradient of each sample by itself, but "
                f"critic.{name} is a {type(layer).__name__}, which mixes the samples: leave out "
                "--model.critic_batch_norm"
            )
