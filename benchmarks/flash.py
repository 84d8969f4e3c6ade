"""FLASH against FLASH-Quad, a Transformer with fused attention, and FLASH-pytorch, in one run.

All have equally many weights and take turns in one process, round by round, so that whatever else
the machine does hits all of them; what is printed are medians, and the median and range of the
rounds' ratios to the first. A training step is forward, loss, backward, clipping and fused AdamW.
Peak memory is of a process of each one's own, above what its imports take, with nothing that malloc
keeps of what is freed. Beside the measured
ratio to the Transformer stands the one that counting multiplications predicts. Decoding writes
tokens after a prefix: ours with a state, FLASH-pytorch's generate by the whole text again.

    python benchmarks/flash.py [--quick] [--lengths 512,1024,...] [--prefixes 1024,8192,...]
        [--contenders flash,transformer,...] [--device auto] [--precision fp32|bf16] [--json FILE]

No `--lengths` or no `--prefixes` ('') leaves training or decoding out.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.flash.module_lm import FlashLM
from zoo.flash.network import macs_per_token

VOCABULARY = 256


class Zoo:
    """One of our three kinds.

    Args:
        kind: flash, flash_quad or transformer.
        compiled: Compile the layers.
        options: The command line.
    """

    def __init__(self, kind: str, compiled: bool, options: argparse.Namespace) -> None:
        torch.manual_seed(0)
        self.model = FlashLM(
            vocab_size=VOCABULARY,
            dim=options.dim,
            depth=options.depth,
            kind=kind,
            head_size=options.head,
            chunk=options.chunk,
            position_bias=True,
            checkpointing=options.checkpointing,
        ).to(options.device)
        if compiled:
            self.model.net.compile_layers()
        self.layers: nn.Module = self.model.net.layers

    def logits(self, tokens: Tensor) -> Tensor:
        """Of all positions."""
        return self.model(tokens)

    def decoder(self, prefix: Tensor, dtype: torch.dtype) -> tuple[Callable[[], Any], int]:
        """A call that writes one token, and the bytes of the state."""
        self.model.eval().to(dtype)
        state = self.model.init_state(len(prefix))
        for piece in prefix.split(4096, 1):  # FLASH-Quad has scores of all pairs
            _, state = self.model.net.prefill(piece, state)
        return lambda: self.model.step(prefix[:, -1], state), state.nbytes()


class Lucidrains:
    """FLASH-pytorch with its defaults.

    Args:
        compiled: Compile its layers, as ours.
        options: The command line.
    """

    def __init__(self, compiled: bool, options: argparse.Namespace) -> None:
        from flash_pytorch import FLASHTransformer

        torch.manual_seed(0)
        self.model = FLASHTransformer(
            dim=options.dim,
            num_tokens=VOCABULARY,
            depth=options.depth,
            group_size=options.chunk,
            query_key_dim=options.head,
            causal=True,
            shift_tokens=True,
        ).to(options.device)
        self.layers: nn.Module = self.model.layers
        for layer in self.model.layers if compiled else ():
            layer.compile(dynamic=False)

    def logits(self, tokens: Tensor) -> Tensor:
        """Of all positions."""
        return self.model(tokens)

    def decoder(self, prefix: Tensor, dtype: torch.dtype) -> tuple[Callable[[], Any], int]:
        """A call that writes one token as its generate does; its state is the text."""
        self.model.eval().to(dtype)
        return lambda: self.model(prefix)[:, -1], prefix.nbytes


CONTENDERS: dict[str, Callable[[argparse.Namespace], Any]] = {
    "flash": lambda o: Zoo("flash", False, o),
    "flash-compiled": lambda o: Zoo("flash", True, o),
    "flash_quad": lambda o: Zoo("flash_quad", False, o),
    "transformer": lambda o: Zoo("transformer", False, o),
    "transformer-compiled": lambda o: Zoo("transformer", True, o),
    "flash-pytorch": lambda o: Lucidrains(False, o),
    "flash-pytorch-compiled": lambda o: Lucidrains(True, o),
}


def trainer(contender: Any, options: argparse.Namespace, n: int) -> Callable[[], None]:
    """A training step on `options.tokens` tokens in texts of n."""
    tokens = torch.randint(0, VOCABULARY, (max(options.tokens // n, 1), n), device=options.device)
    parameters = [p for p in contender.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
    contender.model.train()
    bf16 = options.precision == "bf16"

    def step() -> None:
        with torch.autocast(options.device, torch.bfloat16, enabled=bf16):
            logits = contender.logits(tokens)
            loss = F.cross_entropy(logits.flatten(0, 1).float(), tokens.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def seconds(call: Callable[[], Any], device: str, repeat: int = 1) -> float:
    """Wall-clock time of a call, until the device is done."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(repeat):
        call()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / repeat


def take_turns(
    calls: dict[str, Callable[[], Any]], rounds: int, device: str, repeat: dict[str, int]
) -> dict[str, list[float]]:
    """Times of every call, one of each a round, the order turning from round to round."""
    names = list(calls)
    times: dict[str, list[float]] = {name: [] for name in names}
    for name in names:
        seconds(calls[name], device)  # compiles, and warms up
        seconds(calls[name], device)
    for i in range(rounds):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            times[name].append(seconds(calls[name], device, repeat.get(name, 1)))
    return times


def peak_memory(name: str, n: int, options: argparse.Namespace) -> float:
    """Bytes above the imports' of one training step, in a process of its own."""
    if options.device == "cuda":
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        step = trainer(CONTENDERS[name](options), options, n)
        step()
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated() - before
    command = [sys.executable, __file__, "--memory_of", name, "--lengths", str(n)]
    for key in ("dim", "depth", "head", "chunk", "tokens", "threads", "precision"):
        command += [f"--{key}", str(getattr(options, key))]
    command += ["--checkpointing"] * options.checkpointing
    # What is freed goes back at once: what malloc keeps of it is chance, up to half of the rest.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def memory_here(name: str, options: argparse.Namespace) -> float:
    before = most_resident()
    step = trainer(CONTENDERS[name](options), options, options.lengths[0])
    step()
    step()
    return most_resident() - before


def most_resident() -> float:
    """Peak bytes of this program; `ru_maxrss` begins at the peak of the one that started it."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return float(line.split()[1]) * 1024


def ratios(times: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Median seconds, and how many times as long as the first in the same round."""
    first = times[next(iter(times))]
    out = {}
    for name, own in times.items():
        each = [a / b for a, b in zip(own, first, strict=True)]
        out[name] = {
            "seconds": statistics.median(own),
            "ratio": statistics.median(each),
            "least": min(each),
            "most": max(each),
        }
    return out


def train(options: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    for n in options.lengths:
        made = {name: CONTENDERS[name](options) for name in options.contenders}
        calls = {name: trainer(made[name], options, n) for name in made}
        table = ratios(take_turns(calls, options.rounds, options.device, {}))
        tokens = max(options.tokens // n, 1) * n
        zoo = {name: c for name, c in made.items() if isinstance(c, Zoo)}
        macs = {name: macs_per_token(c.model.net, n) for name, c in zoo.items()}
        print(f"\ntraining, n = {n}, {tokens} tokens a step")
        for name, row in table.items():
            weights = sum(p.numel() for p in made[name].layers.parameters() if p.requires_grad)
            row |= {"n": n, "contender": name, "weights": weights}
            row["tokens_per_second"] = tokens / row["seconds"]
            row["bytes"] = peak_memory(name, n, options) if options.memory else float("nan")
            predicted = ""
            if name in macs and options.contenders[0] in macs:
                row["predicted"] = macs[name] / macs[options.contenders[0]]
                predicted = f"   multiplications x{row['predicted']:.2f}"
            print(
                f"  {name:<21}{row['tokens_per_second']:>9.0f} tokens/s   time x{row['ratio']:.2f} "
                f"({row['least']:.2f} to {row['most']:.2f})   {row['bytes'] / 2**20:7.0f} MiB   "
                f"{weights / 1e6:.2f} M weights{predicted}"
            )
            rows.append(row)
    return rows


@torch.no_grad()
def decode(options: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    names = [name for name in options.contenders if not name.endswith("-compiled")]
    for n in options.prefixes:
        prefix = torch.randint(0, VOCABULARY, (1, n), device=options.device)
        calls, sizes, repeat = {}, {}, {}
        for name in names:
            decoder = CONTENDERS[name](options).decoder(prefix, torch.float32)
            calls[name], sizes[name] = decoder
            repeat[name] = 1 if name == "flash-pytorch" else 64  # most of a chunk
        table = ratios(take_turns(calls, options.rounds, options.device, repeat))
        print(f"\ndecoding after {n} tokens")
        for name, row in table.items():
            row |= {"prefix": n, "contender": name, "state_bytes": sizes[name]}
            print(
                f"  {name:<21}{1 / row['seconds']:>9.1f} tokens/s   time x{row['ratio']:.2f} "
                f"({row['least']:.2f} to {row['most']:.2f})   {sizes[name] / 2**20:8.2f} MiB state"
            )
            rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    numbers = lambda text: [int(x) for x in text.split(",") if x]  # noqa: E731
    parser.add_argument("--lengths", type=numbers, default=[512, 1024, 4096, 16384])
    parser.add_argument("--prefixes", type=numbers, default=[1024, 8192, 65536])
    parser.add_argument("--contenders", type=lambda t: t.split(","), default=list(CONTENDERS))
    parser.add_argument("--tokens", type=int, default=4096, help="tokens of a training step")
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--depth", type=int, default=4, help="units; two are a Transformer's block")
    parser.add_argument("--head", type=int, default=128)
    parser.add_argument("--chunk", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--no_memory", dest="memory", action="store_false")
    parser.add_argument("--quick", action="store_true", help="short texts, eager, two rounds")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--memory_of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.contenders) - set(CONTENDERS):
        parser.error(f"--contenders {', '.join(unknown)}: choose from {', '.join(CONTENDERS)}")
    if options.quick:
        options.lengths, options.prefixes, options.rounds = [1024, 4096], [1024, 8192], 2
        options.contenders = [c for c in options.contenders if not c.endswith("-compiled")]
        options.memory = False
    if options.device == "auto":
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    if options.threads:
        torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore")
    if options.memory_of:
        print(memory_here(options.memory_of, options))
        return
    with contextlib.suppress(ImportError):
        import flash_pytorch  # noqa: F401
    peers = any(name.startswith("flash-pytorch") for name in options.contenders)
    if peers and "flash_pytorch" not in sys.modules:
        sys.exit("pip install FLASH-pytorch, or leave it out of --contenders")
    result = {"training": train(options), "decoding": decode(options)}
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
