"""Sentences out of a TextVAE: from the prior, of other sentences, and between two."""

import torch
from torch import Tensor

from zoo.layers.choose import TokenSampling, choose
from zoo.layers.counter_rng import normal, uniform
from zoo.training.module import evaluating
from zoo.vae.generation import slerp
from zoo.vae.text.text_model import TextModel

# Streams of the counter RNG: z, then a number for each word.
_CODE, _WORDS = 100, 1000


class Generation(TextModel):
    """Writes sentences of codes, word by word."""

    def sample_codes(self, seed: int, index: Tensor) -> Tensor:
        """Codes z of the prior, (n, d), each a function of (seed, its number)."""
        if not self.latent_dim:
            return torch.zeros(len(index), 0, device=index.device)
        return self.head.prior(normal(seed, index, _CODE, (self.latent_dim,)))

    def decode_text(
        self, z: Tensor, *, seed: int, index: Tensor, temperature: float, max_length: int
    ) -> list[str]:
        """Writes a sentence from each code z (n, d), word by word.

        `index` (n,) are the sentences' numbers; the others are as for `generate_text`.
        """
        sampling = TokenSampling(temperature=temperature, seed=seed)
        if max_length < 1:
            raise ValueError(f"max_length={max_length}: need at least 1")
        vocabulary, decoder = self.vocabulary, self.decoder
        words: list[Tensor] = []
        with evaluating(self, precise=True):
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
        self,
        n: int,
        *,
        seed: int = 0,
        first: int = 0,
        temperature: float = 1.0,
        max_length: int = 100,
    ) -> list[str]:
        """Sentences of the prior; a sentence is a function of (seed, its number).

        Args:
            n: How many.
            seed: Seed of the codes and the words.
            first: Number of the first sentence.
            temperature: Temperature of the words' distribution; 0 takes the likeliest word.
            max_length: Most symbols of a sentence.

        Raises:
            ValueError: A value is out of range, or the model has no vocabulary yet.
        """
        if n < 1:
            raise ValueError(f"n={n}: write at least one sentence")
        index = torch.arange(first, first + n, device=self.device)
        z = self.sample_codes(seed, index)
        return self.decode_text(
            z, seed=seed, index=index, temperature=temperature, max_length=max_length
        )

    def texts(self, n: int, /, *, seed: int = 0) -> dict[str, list[str]]:
        """The first n sentences of the prior, as a table."""
        return {"text": self.generate_text(n, seed=seed)}

    def reconstruct_text(
        self, sentences: list[str], *, temperature: float = 0.0, max_length: int = 100
    ) -> list[str]:
        """What the decoder writes from the code E[z|x] of each sentence, as the data has them.

        The options are those of `generate_text`.
        """
        z = self._centers(sentences)
        index = torch.arange(len(z), device=z.device)
        return self.decode_text(
            z, seed=0, index=index, temperature=temperature, max_length=max_length
        )

    def interpolate_text(
        self, a: str, b: str, *, steps: int = 7, max_length: int = 100
    ) -> list[str]:
        """The likeliest words on the way from the code of sentence a to that of b.

        The way is a great circle, on which the lengths of Gaussian codes go in a line.

        Args:
            a: A sentence.
            b: Another.
            steps: Sentences, those of both ends among them.
            max_length: Most symbols of a sentence.
        """
        if steps < 2:
            raise ValueError(f"steps={steps}: both ends are two already")
        start, end = self._centers([a, b])
        t = torch.linspace(0, 1, steps, device=start.device)
        z = slerp(start, end, t)
        index = torch.arange(steps, device=start.device)
        return self.decode_text(z, seed=0, index=index, temperature=0.0, max_length=max_length)

    def _centers(self, sentences: list[str]) -> Tensor:
        if not self.latent_dim:
            raise ValueError("a language model (posterior=none) has no codes of sentences")
        with evaluating(self, precise=True):
            center = self.posterior(self.encode_text(sentences)).center
        # E[z|x] lies inside the sphere; its direction is the code.
        return torch.nn.functional.normalize(center, dim=-1) if self.space == "sphere" else center
