"""`zoo generate`; its docstring is its help."""

import sys
import time
from typing import Literal

import torch
from torch import Tensor

from zoo.files import visible
from zoo.flash.module_lm import FlashLM
from zoo.flash.typewriter import Typewriter
from zoo.loading import device_of, load
from zoo.ranges import Count, PositiveShare, Seed, Temperature
from zoo.reading import decoded, read_bytes
from zoo.tuning.inference import Work, in_precision


def generate_work() -> Work:
    """What `zoo generate` does: a short prompt, and 32 symbols one by one."""

    @torch.no_grad()
    def run(model: FlashLM, n: int) -> Tensor:
        net = model.net
        tokens = torch.arange(64, device=model.device) % net.embedding.num_embeddings
        prompt = tokens[:32].expand(n, -1)
        features, state = net.prefill(prompt, net.init_state(n), [32] * n)
        steps = [net.step(token.expand(n), state) for token in tokens[32:]]
        return torch.stack([net.logits(features[:, -1]), *steps])

    return Work("generate", run, 1)


def generate(
    ckpt: str,
    *,
    prompt: str = "",
    tokens: Count = 500,
    temperature: Temperature = 0.8,
    top_k: Count | None = None,
    top_p: PositiveShare | None = None,
    seed: Seed = 0,
    stop_at_end: bool = False,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    precision: Literal["32", "bf16", "auto"] = "32",
) -> None:
    """Continues a text and writes it to the terminal as it comes.

    Args:
        ckpt: A .ckpt file, a run directory, an exported folder or a model's name.
        prompt: The text to continue, or @FILE to read it from.
        tokens: Symbols to write.
        temperature: Divides the logits; 0 takes the likeliest symbol.
        top_k: Choose among so many of the likeliest.
        top_p: Choose among the fewest likeliest that have this probability together.
        seed: Seed of the choices.
        stop_at_end: Stop where a text, or a line of words, ends.
        device: Where to compute; auto takes a GPU if there is one.
        precision: Precision of the network; auto takes precision and threads as measured on this
            machine (zoo tune), now if not before.
    """
    if prompt.startswith("@"):
        prompt = decoded(read_bytes(prompt[1:]), prompt[1:])
    else:
        decoded(prompt.encode(errors="surrogateescape"), "--prompt")  # as the shell gave it
    model = load(ckpt)
    if not isinstance(model, FlashLM):
        raise ValueError(f"{type(model).__name__} does not write text: give a FlashLM")
    model.to(device_of(device))
    numbers = model.vocabulary.encode(prompt)
    if unknown := int((numbers == model.vocabulary.unknown).sum()):
        many = len(numbers)
        sys.stderr.write(f"zoo: {unknown} of the prompt's {many} symbols are unknown to it\n")
    choice = (temperature, top_k, top_p, seed)
    stream = model.stream(prompt, tokens, *choice, stop_at_end=stop_at_end)
    typewriter = Typewriter(model.vocabulary, prompt)
    # A file of anybody's is not to steer a terminal; what a pipe gets is what was written.
    shown = visible if sys.stdout.isatty() else str
    sys.stdout.write(shown(prompt))
    with in_precision(model, precision, generate_work()):
        count, began = 0, time.perf_counter()
        for token in stream:
            sys.stdout.write(shown(typewriter.type(int(token))))
            sys.stdout.flush()
            count += 1
    seconds = time.perf_counter() - began
    sys.stdout.write("\n")
    sys.stderr.write(f"zoo: {count} symbols, {count / seconds:.0f} a second\n")
