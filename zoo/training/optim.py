"""LAMB, clipping, and learning rates that are piecewise linear in the step."""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer


def piecewise_linear(points: Mapping[int, float]) -> Callable[[int], float]:
    """The function of the step that is linear between `points` and constant after the last.

    It starts from 0 at step 0 unless 0 is one of the points: {5000: 1} is a linear warm-up.
    """
    if not points or min(points) < 0 or min(points.values()) < 0:
        raise ValueError(f"lr_schedule={dict(points)}: give multipliers >= 0 at steps >= 0")
    values = {0: 0.0, **points}
    steps = sorted(values)

    def value(step: int) -> float:
        i = bisect_right(steps, step)
        if i == len(steps):
            return values[steps[-1]]
        left, right = steps[i - 1], steps[i]
        part = (step - left) / (right - left)
        return values[left] + part * (values[right] - values[left])

    return value


def clip(
    parameters: Iterable[nn.Parameter], bound: float | None, algorithm: str | None = None
) -> None:
    """Clips gradients to a norm over all of them, or by `value` each entry, in place.

    Nothing is done for a bound of None or 0.
    """
    if not bound:
        return
    if algorithm == "value":
        nn.utils.clip_grad_value_(parameters, bound)
    else:
        nn.utils.clip_grad_norm_(parameters, bound)


def may_fuse(module: LightningModule) -> bool:
    """Whether the optimiser may be a fused one, several times as fast as PyTorch's default.

    Not beside a loss scaler (16-mixed): a fused step unscales gradients by itself, so that they
    cannot be clipped before it. Nor of the distributed tensors that FSDP2 makes, of which CPUs have
    no fused step.
    """
    if module.device_mesh is not None:
        return False
    scaled = module._trainer is not None and module.trainer.precision == "16-mixed"
    return module.device.type in ("cpu", "cuda") and not scaled


class LAMB(Optimizer):
    """Adam whose step has the length of the weight it changes (arXiv 1904.00962, algorithm 2).

    Vectors (biases, norms) take plain Adam steps, as in the post's author's training. Weight decay
    is decoupled, and part of the step whose length is adapted.

    Args:
        params: Parameters, or groups of them.
        lr: Learning rate; with adapted steps the relative change of a weight in a step.
        betas: Decay of the mean and of the mean square of the gradient.
        eps: Added to the root of the mean square.
        weight_decay: Added to the step, times the weight.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; reads no value back from the device."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                self._update(params, group)
        return loss

    def _update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        grads = [cast(Tensor, p.grad) for p in params]
        beta1, beta2 = group["betas"]
        for p in params:
            if not self.state[p]:
                self.state[p].update(step=0, m=torch.zeros_like(p), v=torch.zeros_like(p))
            self.state[p]["step"] += 1
        m, v = ([self.state[p][name] for p in params] for name in "mv")
        count = self.state[params[0]]["step"]
        torch._foreach_lerp_(m, grads, 1 - beta1)
        torch._foreach_mul_(v, beta2)
        torch._foreach_addcmul_(v, grads, grads, 1 - beta2)
        scale = torch._foreach_sqrt(v)
        torch._foreach_div_(scale, (1 - beta2**count) ** 0.5)
        torch._foreach_add_(scale, group["eps"])
        update = torch._foreach_div(m, 1 - beta1**count)
        torch._foreach_div_(update, scale)
        if group["weight_decay"]:
            torch._foreach_add_(update, params, alpha=group["weight_decay"])
        wide = [i for i, p in enumerate(params) if p.ndim > 1]
        if wide:
            weights = torch._foreach_norm([params[i] for i in wide])
            lengths = torch._foreach_norm([update[i] for i in wide])
            # A weight or a step of length 0 has no direction to keep: plain Adam.
            ratios = [
                torch.where((w > 0) & (u > 0), w / u, 1.0)
                for w, u in zip(weights, lengths, strict=True)
            ]
            torch._foreach_mul_([update[i] for i in wide], ratios)
        torch._foreach_add_(params, update, alpha=-group["lr"])
