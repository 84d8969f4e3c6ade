"""What a VAE of sentences computes: posteriors, likelihoods and densities, of words it knows."""

from typing import Any, cast

import torch
from torch import Tensor

from zoo.data.text.lines import SentenceSet, TextBatch
from zoo.data.text.vocabulary import Vocabulary
from zoo.training.module import Module
from zoo.vae.batch_norm import GaussianHead
from zoo.vae.density.importance import DensityEstimate, estimate_log_density
from zoo.vae.posteriors import Posterior, Space
from zoo.vae.spherical_head import SphericalHead
from zoo.vae.text.networks import TextDecoder, TextEncoder, shift


class TextModel(Module):
    """Networks, which `TextVAE` makes, and their words, which travel with the weights."""

    encoder: TextEncoder
    decoder: TextDecoder
    head: GaussianHead | SphericalHead
    latent_dim: int
    """Numbers of a code; 0 for a language model, which has neither encoder nor head."""
    space: Space
    vocab_size: int
    word_dropout: float
    log_density_samples: int
    symbols: Tensor
    """The vocabulary as bytes of JSON, so that a checkpoint alone can write sentences."""

    def posterior(self, x: TextBatch) -> Posterior:
        """The posteriors q(z|x) of a batch."""
        features = self.encoder(x.tokens, x.lengths)
        return cast(Posterior, self.head(features))

    def log_likelihood(self, x: TextBatch, z: Tensor) -> Tensor:
        """Log p(x|z) of each sentence, its end included, (K, B), for z (K, B, d)."""
        inputs = shift(x.tokens, self.decoder.end)
        if self.training and self.word_dropout:
            dropped = torch.rand(inputs.shape, device=inputs.device) < self.word_dropout
            dropped[:, 0] = False  # the beginning is no word
            inputs = inputs.masked_fill(dropped, 1)  # <unk>
        return self.decoder.log_prob(x.tokens, inputs, x.real, z)

    def codes(self, x: TextBatch) -> Tensor:
        """Codes without numbers (1, B, 0), which a language model reads."""
        return torch.zeros(1, len(x.tokens), 0, device=x.tokens.device)

    def log_density(
        self,
        x: TextBatch,
        *,
        samples: int | None = None,
        seed: int = 0,
        widen: float = 1.0,
        refine: int = 0,
        chunk: int | None = None,
    ) -> DensityEstimate:
        """Estimates log p(x) of each sentence as `zoo.vae.density.importance` says.

        Not of a language model, which has log p(x) exactly.
        """
        samples = self.log_density_samples if samples is None else samples
        if not self.latent_dim:
            raise ValueError(
                "a language model (posterior=none) has log p(x) itself: log_likelihood"
            )
        return estimate_log_density(
            self, x, x.index, samples=samples, seed=seed, widen=widen, refine=refine, chunk=chunk
        )

    # Words

    @property
    def vocabulary(self) -> Vocabulary:
        """The words, as the training data had them."""
        if not len(self.symbols):
            raise ValueError("this model has no words yet: train it, or load a trained one")
        return Vocabulary.unpack(bytes(self.symbols.tolist()))

    def use_vocabulary(self, words: Vocabulary) -> None:
        """Takes the data's words, which must be as many as the model has, and its."""
        sizes = ("vocab_size", self.vocab_size, len(words)), ("end", self.decoder.end, words.end)
        for name, ours, theirs in sizes:
            if ours != theirs:
                raise ValueError(
                    f"the data has {name}={theirs} but the model {ours}: set "
                    f"--model.{name}={theirs}"
                )
        if len(self.symbols) and self.vocabulary != words:
            raise ValueError("the data has other words than the model was trained on")
        packed = list(words.pack())
        self.symbols = torch.tensor(packed, dtype=torch.uint8, device=self.symbols.device)

    def encode_text(self, sentences: list[str]) -> TextBatch:
        """A batch of sentences, numbered from 0, on the model's device."""
        vocabulary = self.vocabulary
        encoded = [vocabulary.encode(sentence) for sentence in sentences]
        whole = SentenceSet(encoded, vocabulary.end)
        return whole.__getitems__(list(range(len(encoded)))).to(self.device)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        words = state_dict.get(f"{prefix}symbols")
        if words is not None:  # as many bytes as the words take
            self.symbols = words.new_empty(words.shape, device=self.symbols.device)
            held = len(Vocabulary.unpack(words.cpu().numpy().tobytes())) if len(words) else 0
            if held not in (0, self.vocab_size):
                raise ValueError(f"has {held} symbols for {self.vocab_size}")
        super()._load_from_state_dict(state_dict, prefix, *args)
