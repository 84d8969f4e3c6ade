"""Networks to test with: all parameters moved off their special values."""

from typing import Any

import torch
from torch import Tensor, nn

from zoo.ddpm.unet import UNet, unet_arguments


def network(hparams: dict[str, Any], seed: int = 0) -> UNet:
    """Our U-Net in eval mode, with every parameter moved off its special values."""
    torch.manual_seed(seed)
    net = UNet(**unet_arguments(hparams)).eval()
    randomise(net)
    return net


def randomise(net: nn.Module) -> None:
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn_like(p), alpha=0.02 if p.dim() > 1 else 0.2)


def loaded(hparams: dict[str, Any], state: dict[str, Tensor]) -> UNet:
    net = UNet(**unet_arguments(hparams))
    net.load_state_dict(state, strict=True)
    return net.eval()


def difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())
