"""Ours and the peers, each in the best setting that it has on this machine: samples and vectors.

All settings of a side are tried in a few turns; the best of each side, and the peer's default, then
take turns that nothing was chosen by. A setting counts if its result is off by no more than the
bounds of `zoo tune`. Only ratios of one run mean anything.

- samples: ten steps of DPM-Solver++, CIFAR-10's U-Net, through `sample` and through diffusers'
  DDPMPipeline with DPMSolverMultistepScheduler, the same weights, in float32 and under autocast to
  bf16.
- vectors: 600 sentences through `encode`, in float32, bf16 and int8, and through
  SentenceTransformer of our export: PyTorch in float32 and bf16, and where sentence-transformers'
  extras onnx and openvino are installed those backends, ONNX in float32 and int8. Its batch sizes
  32 (the default) and 8 are tried. int8 of OpenVINO is not: it asks for data to calibrate by.

    python benchmarks/best.py [--parts samples,vectors] [--threads 2] [--rounds 7] [--json FILE]
"""

import argparse
import importlib.util
import json
import os
import tempfile
import warnings
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

os.environ["TQDM_DISABLE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import torch
from ddpm import build, interleave, machine
from scale_made import versus
from torch import Tensor
from tune import work_of

from zoo.simbert.interchange_sentences import to_sentence_transformers
from zoo.tuning.inference import BOUNDS, worn
from zoo.tuning.settings import Setting, bf16_is_slow, distance

Calls = dict[str, Callable[[], Any]]
CPU = torch.device("cpu")


def judged(
    calls: Calls, exact: Tensor, bound: Callable[[str], float]
) -> tuple[Calls, dict[str, float]]:
    """Those whose result is near enough, and what each is off by."""
    off = {name: distance(call().double(), exact) for name, call in calls.items()}
    return {name: call for name, call in calls.items() if off[name] <= bound(name)}, off


def contest(
    title: str, ours: Calls, theirs: Calls, default: str, off: dict[str, float], rounds: int
) -> dict[str, Any]:
    """The best of both sides and the peer's default, by turns."""
    tried = interleave(ours | theirs, 3, 1, CPU)
    best, peer = (min(side, key=lambda name: median(tried[name])) for side in (ours, theirs))
    for name, own in sorted(tried.items(), key=lambda item: median(item[1])):
        print(f"{title}  {name:<36}{1e3 * median(own):9.0f} ms  off {off[name]:.2%}")
    left = {name: (ours | theirs)[name] for name in dict.fromkeys((best, peer, default))}
    times = interleave(left, rounds, 0, CPU)
    found = {
        kind: {"ours": best, "peer": other} | versus(times[best], times[other])
        for kind, other in (("default", default), ("best", peer))
    }
    for row in found.values():
        span = f"{row['ratio_min']:.2f} to {row['ratio_max']:.2f}"
        print(
            f"{title}  {row['peer']}: {row['ratio']:.2f} times ({span}) the time of {row['ours']}",
            flush=True,
        )
    return found | {"off": off, "tried": {name: median(own) for name, own in tried.items()}}


def samples(options: Namespace, halves: bool) -> dict[str, Any]:
    """Ten steps of DPM-Solver++."""
    ours: Calls = {}
    theirs: Calls = {}
    names = ["zoo", "zoo-contiguous", "diffusers"]
    shared = {"network": "cifar", "device": "cpu", "batch": 4, "sampler": "dpmpp", "steps": 10}
    start = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    outputs: dict[str, Tensor] = {}
    for precision in ("fp32", "bf16") if halves else ("fp32",):
        made = build(names, Namespace(**shared, precision=precision))
        for name, contender in made.items():
            label = f"{name}, {precision}"
            side = theirs if name == "diffusers" else ours
            side[label] = lambda c=contender: c.sample(4, 10)
            with torch.no_grad(), contender.autocast():
                outputs[label] = contender.predict(start, torch.full((4,), 500)).double()
    off = {name: distance(x, outputs["diffusers, fp32"]) for name, x in outputs.items()}
    assert all(off[n] <= BOUNDS["bf16" if "bf16" in n else "32"] for n in off), off
    return contest("samples", ours, theirs, "diffusers, fp32", off, options.rounds)


def vectors(options: Namespace, halves: bool) -> dict[str, Any]:
    """Vectors of 600 sentences."""
    from sentence_transformers import SentenceTransformer

    work, default, _ = work_of("encode", 600, 60, None)
    model: Any = work.model
    words = len(model.tokenizer)
    # Of 4 to 31 characters, no special tokens.
    rows = [[5 + (7 * i + j) % (words - 5) for j in range(4 + i % 28)] for i in range(600)]
    texts = [model.tokenizer.decode(row) for row in rows]
    exact = model.double().encode(texts).double()
    model.float()

    def own(precision: str) -> Callable[[], Tensor]:
        def run() -> Tensor:
            with worn(model, Setting(precision, default.threads, None)):
                return model.encode(texts)

        return run

    def peer(sentences: Any, size: int) -> Callable[[], Tensor]:
        return lambda: torch.from_numpy(sentences.encode(texts, batch_size=size))

    ours: Calls = {f"zoo, {p}": own(p) for p in ("32", *["bf16"] * halves, "int8")}
    theirs: Calls = {}
    with tempfile.TemporaryDirectory() as folder:
        to_sentence_transformers(dict(model.hparams), model.state_dict(), Path(folder))
        made = {"PyTorch": SentenceTransformer(folder, device="cpu")}
        if halves:
            made["PyTorch, bf16"] = SentenceTransformer(folder, device="cpu").bfloat16()
        if importlib.util.find_spec("optimum"):
            made |= _backends(folder)
        for label, sentences in made.items():
            for size in (32, 8):
                name = f"sentence-transformers, {label}, {size}"
                theirs[name] = peer(sentences, size)
        ours, off = judged(ours, exact, lambda n: BOUNDS[n.split(", ")[1]])
        theirs, theirs_off = judged(theirs, exact, lambda _: BOUNDS["int8"])
        default_peer = "sentence-transformers, PyTorch, 32"
        return contest("vectors", ours, theirs, default_peer, off | theirs_off, options.rounds)


def _backends(folder: str) -> dict[str, Any]:
    """sentence-transformers' other backends, of those that are installed."""
    import sentence_transformers
    from sentence_transformers import SentenceTransformer

    found: dict[str, Any] = {}
    if importlib.util.find_spec("onnxruntime"):
        found["ONNX"] = SentenceTransformer(folder, device="cpu", backend="onnx")
        found["ONNX"].save_pretrained(folder)
        units = torch.cpu.get_capabilities().get("avx512_vnni")
        sentence_transformers.export_dynamic_quantized_onnx_model(
            found["ONNX"], "avx512_vnni" if units else "avx2", folder, file_suffix="int8"
        )
        names = {"file_name": "onnx/model_int8.onnx"}
        found["ONNX, int8"] = SentenceTransformer(
            folder, device="cpu", backend="onnx", model_kwargs=names
        )
    if importlib.util.find_spec("openvino"):
        found["OpenVINO"] = SentenceTransformer(folder, device="cpu", backend="openvino")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default="samples,vectors")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    parts = {"samples": samples, "vectors": vectors}
    chosen = options.parts.split(",")
    if unknown := [name for name in chosen if name not in parts]:
        parser.error(f"--parts {unknown[0]}: none of {', '.join(parts)}")
    if options.rounds < 1:
        parser.error(f"--rounds {options.rounds}: give 1 or more")
    warnings.filterwarnings("ignore")
    torch.set_num_threads(options.threads)
    halves = not bf16_is_slow(CPU)
    report: dict[str, Any] = {"machine": machine("cpu")}
    print(report["machine"])
    for name in chosen:
        report[name] = parts[name](options, halves)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
