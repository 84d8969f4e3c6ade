"""Sentences out of a TextVAE: from the prior, of other sentences, and between two; its methods."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from zoo.layers.choose import TokenSampling, choose
from zoo.layers.counter_rng import normal, uniform
from zoo.vae.density.importance import evaluating
from zoo.vae.generation import slerp

if TYPE_CHECKING:
    from zoo.data.text.lines import TextBatch
    from zoo.vae.text.module import TextVAE

# Streams of the counter RNG: z, then a number for each word.
_CODE, _WORDS = 100, 1000


def sample_codes(model: TextVAE, seed: int, index: Tensor) -> Tensor:
    """Codes z of the prior, (n, d), each a function of (seed, its number)."""
    if not model.latent_dim:
        return torch.zeros(len(index), 0, device=index.device)
    z: Tensor = model.head.prior(normal(seed, index, _CODE, (model.latent_dim,)))
    return z


def decode(
    model: TextVAE, z: Tensor, *, seed: int, index: Tensor, temperature: float, max_length: int
) -> list[str]:
    """Writes a sentence from each code z (n, d), word by word.

    Args:
        model: The model.
        z: Codes.
        seed: Of the words.
        index: Numbers of the sentences, int64, (n,).
        temperature: Of the words' distribution; 0 takes the likeliest word.
        max_length: Most symbols of a sentence.

    Raises:
        ValueError: A value is out of range.
    """
    sampling = TokenSampling(temperature=temperature, seed=seed)
    if max_length < 1:
        raise ValueError(f"max_length={max_length}: need at least 1")
    vocabulary, decoder = model.vocabulary, model.decoder
    words: list[Tensor] = []
    with evaluating(model):
        state = decoder.begin(z)
        last = torch.full_like(index, decoder.end)
        over = torch.zeros_like(index, dtype=torch.bool)
        for position in range(max_length):
            states, state = decoder.read(last[:, None], z[None], state)
            logits = decoder.projection(states[:, 0]).double()
            last = choose(logits, uniform(seed, index, _WORDS + position), sampling)
            words.append(last)
            over = over | (last == decoder.end)
            if over.all():
                break
    return [vocabulary.decode(row) for row in torch.stack(words, 1).tolist()]


def generate_text(
    model: TextVAE,
    n: int,
    *,
    seed: int = 0,
    first: int = 0,
    temperature: float = 1.0,
    max_length: int = 100,
) -> list[str]:
    """Sentences of the prior; a sentence is a function of (seed, its number).

    Args:
        model: The model.
        n: How many.
        seed: Of the codes and the words.
        first: Number of the first sentence.
        temperature: Of the words' distribution; 0 takes the likeliest word.
        max_length: Most symbols of a sentence.

    Raises:
        ValueError: A value is out of range, or the model has no vocabulary yet.
    """
    if n < 1:
        raise ValueError(f"n={n}: write at least one sentence")
    index = torch.arange(first, first + n, device=model.device)
    z = sample_codes(model, seed, index)
    return decode(model, z, seed=seed, index=index, temperature=temperature, max_length=max_length)


def reconstruct_text(
    model: TextVAE, sentences: list[str], *, temperature: float = 0.0, max_length: int = 100
) -> list[str]:
    """What the decoder writes from the code E[z|x] of each sentence.

    Args:
        model: The model, with a latent code.
        sentences: Sentences as the model's data has them.
        temperature: Of the words' distribution; 0 takes the likeliest word.
        max_length: Most symbols of a sentence.

    Raises:
        ValueError: The model has no latent code, or a value is out of range.
    """
    z = _centers(model, sentences)
    index = torch.arange(len(z), device=z.device)
    return decode(model, z, seed=0, index=index, temperature=temperature, max_length=max_length)


def interpolate_text(
    model: TextVAE, a: str, b: str, *, steps: int = 7, max_length: int = 100
) -> list[str]:
    """The likeliest words on the way from the code of sentence a to that of b.

    The way is a great circle, on which the lengths of Gaussian codes go in a line.

    Args:
        model: The model, with a latent code.
        a: A sentence.
        b: Another.
        steps: Sentences, those of both ends among them.
        max_length: Most symbols of a sentence.

    Raises:
        ValueError: The model has no latent code, or there are less than two steps.
    """
    if steps < 2:
        raise ValueError(f"steps={steps}: both ends are two already")
    start, end = _centers(model, [a, b])
    t = torch.linspace(0, 1, steps, device=start.device)
    z = slerp(start, end, t)
    index = torch.arange(steps, device=start.device)
    return decode(model, z, seed=0, index=index, temperature=0.0, max_length=max_length)


def encode_text(model: TextVAE, sentences: list[str]) -> TextBatch:
    """A batch of sentences, numbered from 0, on the model's device."""
    from zoo.data.text.lines import SentenceSet

    vocabulary = model.vocabulary
    encoded = [vocabulary.encode(sentence) for sentence in sentences]
    whole = SentenceSet(encoded, vocabulary.end)
    return whole.__getitems__(list(range(len(encoded)))).to(model.device)


def _centers(model: TextVAE, sentences: list[str]) -> Tensor:
    if not model.latent_dim:
        raise ValueError("a language model (posterior=none) has no codes of sentences")
    with evaluating(model):
        center = model.posterior(encode_text(model, sentences)).center
    # E[z|x] lies inside the sphere; its direction is the code.
    return torch.nn.functional.normalize(center, dim=-1) if model.space == "sphere" else center
