"""How much of a training step is matrix products, and how fast they could be: what is left to gain.

The products of a step (matrix products and convolutions, forward and backward) are recorded with
their shapes, strides and types, and run again by themselves on numbers of the same layout, taking
turns with whole steps. "share" is their time alone over the step's: 1 / share is the most that
anything but other products could gain. Rates are FLOP of the products over seconds, in the step
and alone, beside one large square product of the same type.

    python benchmarks/roofline.py [--only vae,ddpm-digits]
        [--threads N] [--clock wall|cpu] [--json FILE]
"""

import argparse
import json
import statistics
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from ddpm import machine
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

aten = torch.ops.aten
ATTENTION = aten._scaled_dot_product_flash_attention_for_cpu.default
ATTENTION_BACKWARD = aten._scaled_dot_product_flash_attention_for_cpu_backward.default
PRODUCTS = {
    *(ATTENTION, ATTENTION_BACKWARD),
    *(aten.mm.default, aten.addmm.default, aten.bmm.default, aten.baddbmm.default),
    *(aten.convolution.default, aten.convolution_backward.default),
}
Call = tuple[Any, tuple[Any, ...], dict[str, Any]]


def flop(func: Any, args: Any, kwargs: Any, out: Any) -> int:
    """Two for a multiplication with its addition; torch has no count of its attention of a CPU."""
    if func is ATTENTION:
        return sdpa_flop_count(*(t.shape for t in args[:3]))
    if func is ATTENTION_BACKWARD:
        return sdpa_backward_flop_count(*(t.shape for t in args[:4]))
    return flop_registry[func.overloadpacket](*args, **kwargs, out_val=out)


class Recorder(TorchDispatchMode):
    """Keeps the products that run inside, each with how often it ran and its FLOP."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, Call] = {}
        self.counts: Counter[str] = Counter()
        self.flop = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func in PRODUCTS:
            self.flop += flop(func, args, kwargs, out)

            def layout(t: Tensor) -> Any:
                return (tuple(t.shape), t.stride(), t.dtype)

            key = repr((func, tree_map_only(Tensor, layout, (args, kwargs))))
            if key not in self.calls:
                copy = tree_map_only(Tensor, torch.clone, (args, kwargs))  # strides stay
                self.calls[key] = (func, *copy)
            self.counts[key] += 1
        return out

    def run(self) -> None:
        """All of them, as often as they ran."""
        for key, (func, args, kwargs) in self.calls.items():
            for _ in range(self.counts[key]):
                func(*args, **kwargs)


def vae() -> Callable[[], Any]:
    from vae import zoo_step

    return zoo_step("vae", (torch.rand(128, 784) < 0.3).float())[1]


def ddpm(network: str, batch: int) -> Callable[[], Any]:
    from ddpm_contenders import Zoo

    options = {"network": network, "batch": batch, "precision": "fp32", "sampler": "ddim"}
    return Zoo(argparse.Namespace(device="cpu", **options)).step


def critic(constraint: str) -> Callable[[], Any]:
    from wgan_contenders import Zoo

    options = argparse.Namespace(device="cpu", batch=16, network="dcgan", channels_last=False)
    return Zoo(constraint, options).critic_step


def flash(length: int) -> Callable[[], Any]:
    from flash import Zoo, trainer

    options = argparse.Namespace(
        **{"dim": 256, "depth": 4, "head": 128, "chunk": 256, "tokens": 4096, "device": "cpu"},
        **{"precision": "fp32", "checkpointing": False},
    )
    return trainer(Zoo("flash", False, options), options, length)


STEPS: dict[str, Callable[[], Callable[[], Any]]] = {
    "vae": vae,
    "dcgan-gp": lambda: critic("gp"),
    "dcgan-gn": lambda: critic("gn"),
    "dcgan-sn": lambda: critic("spectral_norm"),
    "ddpm-digits": lambda: ddpm("digits", 64),
    "ddpm-cifar": lambda: ddpm("cifar", 4),
    "flash-4k": lambda: flash(4096),
}


def measure(name: str, rounds: int, clock: Callable[[], float]) -> dict[str, float]:
    """Medians over rounds in which the step and its products take turns."""
    torch.manual_seed(0)
    step = STEPS[name]()
    step()
    recorder = Recorder()
    with recorder:
        step()
    # As many of each as make a twentieth of a second, so that a clock's steps do not show.
    began = time.perf_counter()
    step()
    repeat = max(1, round(0.05 / (time.perf_counter() - began)))
    times: dict[str, list[float]] = {"step": [], "products": []}
    for i in range(rounds + 1):
        for part, call in (("step", step), ("products", recorder.run)):
            began = clock()
            with torch.no_grad() if part == "products" else torch.enable_grad():
                for _ in range(repeat):
                    call()
            if i:
                times[part].append((clock() - began) / repeat)
    whole, alone = (statistics.median(times[part]) for part in times)
    shares = [p / s for s, p in zip(times["step"], times["products"], strict=True)]
    return {
        "share": statistics.median(shares),
        "share_min": min(shares),
        "share_max": max(shares),
        "products": sum(recorder.counts.values()),
        "gflop": recorder.flop / 1e9,
        "gflops_in_step": recorder.flop / whole / 1e9,
        "gflops_alone": recorder.flop / alone / 1e9,
    }


def attainable(clock: Callable[[], float], n: int = 1536) -> float:
    """GFLOP/s of a square product of float32, the best of ten."""
    a = torch.randn(n, n)
    times = []
    for _ in range(11):
        began = clock()
        a @ a
        times.append(clock() - began)
    return 2 * n**3 / min(times) / 1e9


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(STEPS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.clock == "cpu" else time.perf_counter
    best = attainable(clock)
    print(f"{machine('cpu')}; a square product: {best:.0f} GFLOP/s\n")
    print("| step | products | GFLOP | share (range) | GFLOP/s in the step | alone |")
    print("|---|---|---|---|---|---|")
    rows = {}
    for name in options.only.split(","):
        row = rows[name] = measure(name, options.rounds, clock)
        print(
            f"| {name} | {row['products']} | {row['gflop']:.2f} | {row['share']:.2f} "
            f"({row['share_min']:.2f}-{row['share_max']:.2f}) | {row['gflops_in_step']:.0f} | "
            f"{row['gflops_alone']:.0f} |",
            flush=True,
        )
    if options.json:
        report = {"machine": machine("cpu"), "square": best, "rows": rows}
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
