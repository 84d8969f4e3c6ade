"""Linear layers whose weights lie as a CPU's matrix products read them."""

from collections.abc import Collection
from copy import deepcopy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Net = TypeVar("Net", bound=nn.Module)


class PackedLinear(nn.Module):
    """A linear layer in bf16, for inference on a CPU, with the weight in oneDNN's order.

    A plain product orders the weight anew at every call. The results are the same to the bit.

    Raises:
        RuntimeError, AttributeError: This PyTorch or this processor cannot.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        ops: Any = torch.ops.mkldnn  # what torch.compile makes of linear layers
        bias = linear.bias
        self.weight = ops._reorder_linear_weight(linear.weight.detach().bfloat16(), None)
        self.bias = None if bias is None else bias.detach().bfloat16()
        self.product = ops._linear_pointwise
        self(torch.zeros(1, linear.in_features))  # raises here rather than later

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out), in bf16."""
        y: Tensor = self.product(x.bfloat16(), self.weight, self.bias, "none", [], "")
        return y


def packed(net: Net, plain: Collection[str] = ()) -> Net:
    """A copy of a network with packed linear layers, which shares all else with it.

    The network itself where nothing is to be gained, or it cannot be done: no CPU, no autocast to
    bf16, parts that are compiled or split over processes. In float32 a plain product orders
    nothing. Layers with hooks or a forward of their own stay.

    Args:
        net: The network, which stays as it is.
        plain: Names of layers to leave, because their weights are read elsewhere.
    """
    tensors = [*net.parameters(), *net.buffers()]
    layers = {
        name: part
        for name, part in net.named_modules()
        if type(part) is nn.Linear and name not in plain and not _changed(part)
    }
    if (
        not torch.is_autocast_enabled("cpu")
        or torch.get_autocast_dtype("cpu") != torch.bfloat16
        or any(part._compiled_call_impl is not None for part in net.modules())
        or any(type(x) not in (Tensor, nn.Parameter) or x.device.type != "cpu" for x in tensors)
    ):
        return net
    try:
        ready: dict[str, nn.Module] = {n: PackedLinear(layer) for n, layer in layers.items()}
        copy = deepcopy(net, {id(x): x for x in tensors})
    except (RuntimeError, AttributeError, TypeError):
        return net
    for name, part in ready.items():
        copy.set_submodule(name, part)
    return copy


def _changed(layer: nn.Module) -> bool:
    """Whether it does more than its class says; old-style weight norm is a hook, too."""
    own = vars(layer)
    return "forward" in own or bool(own["_forward_hooks"] or own["_forward_pre_hooks"])
