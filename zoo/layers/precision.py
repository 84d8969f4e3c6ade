"""The precision in which losses and norms are taken."""

from typing import Any

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """Halves become float32; float64 stays."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def product(a: Tensor, b: Tensor) -> Tensor:
    """The matrix product in the precision of its factors, which autocast would round to 8 bits."""
    with torch.autocast(a.device.type, enabled=False):
        return a @ b


def wide(device: torch.device) -> torch.dtype:
    """The dtype in which sums and scalars are computed: float64, but on Apple's GPUs."""
    return torch.float32 if device.type == "mps" else torch.float64


def _bf16_units() -> bool:
    told: Any = getattr(torch.cpu, "get_capabilities", dict)()
    used: Any = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    return bool(told.get("avx512_bf16") or told.get("amx_bf16")) and bool(used())


# Whether PyTorch says that this CPU has instructions for products in bf16, and oneDNN may use them.
# On x86 those are AVX-512's or AMX's; without them such products are emulated. A constant, so that
# a compiler has nothing to ask.
BF16_UNITS = _bf16_units()
