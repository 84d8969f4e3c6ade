"""What a causal language model writes."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from zoo.flash.decoding import continuations
from zoo.flash.figures import Figures
from zoo.flash.network import DecodeState
from zoo.layers.choose import TokenSampling

Prompt = str | list[str] | list[Tensor]
_SHOWN = 200  # symbols of a text in a table


class Generation(Figures):
    """Methods of a causal model that decodes with a state, of constant size if it is flash."""

    def init_state(self, batch: int = 1) -> DecodeState:
        """The state before the first token of `batch` rows."""
        return self.net.init_state(batch)

    @torch.no_grad()
    def prefill(
        self, tokens: Tensor, state: DecodeState | None = None, lengths: list[int] | None = None
    ) -> tuple[Tensor, DecodeState]:
        """Reads many tokens at once.

        Args:
            tokens: int64, shape (B, n).
            state: What came before, all rows equally long; nothing if not given. Not to be used
                again.
            lengths: Tokens each row really has, n if not given; the rest is padding.

        Returns:
            Logits (B, n, V), and the state after the tokens.
        """
        state = self.net.init_state(len(tokens)) if state is None else state
        features, state = self.net.prefill(tokens, state, lengths)
        return self.net.logits(features), state

    @torch.no_grad()
    def step(self, tokens: Tensor, state: DecodeState) -> Tensor:
        """Logits (B, V) after one more token (B,) a row; changes `state`."""
        return self.net.step(tokens, state)

    def stream(
        self,
        prompt: Prompt = "",
        max_new_tokens: int = 256,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
        *,
        first: int = 0,
        stop_at_end: bool = True,
    ) -> Iterator[Tensor]:
        """New tokens as they are chosen, one a row at a time, (B,).

        A row's continuation depends on its prompt, the seed and its number only.

        Args:
            prompt: One text, several of any lengths, or tokens, int64 (n,) each.
            max_new_tokens: Symbols to write.
            temperature: Divides the logits; 0 takes the likeliest symbol.
            top_k: Choose among so many of the likeliest.
            top_p: Choose among the fewest likeliest that have this probability together.
            seed: Seed of the choices.
            first: Number of the first row.
            stop_at_end: A row ends with the symbol that ends a text.

        Raises:
            ValueError: A value is out of range; at once, before the first token.
        """
        sampling = TokenSampling(top_p, top_k, temperature, seed)
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens={max_new_tokens}: write at least one token")
        texts: list[Any] = [prompt] if isinstance(prompt, str) else list(prompt)
        if not texts:
            raise ValueError("prompt=[]: give at least one text, which may be empty")
        end = self.vocabulary.end if len(self.words.symbols) else None
        rows = [self._tokens_of(text) for text in texts]
        # A text begins where another has ended.
        rows = [r if len(r) else torch.tensor([end or 0]) for r in rows]
        tokens = continuations(
            self.net,
            rows,
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            index=torch.arange(first, first + len(rows), device=self.device),
            end=end if stop_at_end else None,
        )
        return self._evaluating(tokens)

    def _tokens_of(self, text: Any) -> Tensor:
        """The tokens of a prompt, int64 (n,) on the host."""
        if isinstance(text, str):
            return torch.from_numpy(self.vocabulary.encode(text))
        size = self.net.embedding.num_embeddings
        known = isinstance(text, Tensor) and text.ndim == 1
        known = known and not (len(text) and (text.is_floating_point() or text.is_complex()))
        if not known or (len(text) and not 0 <= int(text.min()) <= int(text.max()) < size):
            raise ValueError(f"prompt: a text, or int64 tokens (n,) below {size}, not {text!r:.60}")
        tokens: Tensor = text.cpu().long()
        return tokens

    def _evaluating(self, tokens: Iterator[Tensor]) -> Iterator[Tensor]:
        """The same tokens, written in eval mode."""
        training = self.training
        self.eval()
        try:
            yield from tokens
        finally:
            self.train(training)

    def generate(
        self, prompt: Prompt = "", *choice: Any, stop_at_end: bool = True, **options: Any
    ) -> list[str] | Tensor:
        """Continues texts; the arguments are those of `stream`.

        Returns:
            The new texts; of tokens the new tokens, (B, m).
        """
        tokens = self.stream(prompt, *choice, stop_at_end=stop_at_end, **options)
        out = torch.stack(list(tokens), 1)
        if not isinstance(prompt, str) and not isinstance(prompt[0], str):
            return out
        return [self._text(row, stop_at_end) for row in out.tolist()]

    def texts(self, n: int, /, *, seed: int = 0) -> dict[str, list[str]]:
        """The beginnings of n texts, as a table; none where the data are numbers."""
        if not len(self.words.symbols):
            return {}
        made = self.generate([""] * n, _SHOWN, seed=seed)
        assert isinstance(made, list)
        return {"text": made}

    def _text(self, tokens: list[int], to_the_end: bool) -> str:
        """The text up to its end, or all of it, with a new line for each end."""
        words = self.vocabulary
        if to_the_end:
            return words.decode(tokens)
        cuts = [i for i, token in enumerate(tokens) if token == words.end]
        starts = [0, *(i + 1 for i in cuts)]
        return "\n".join(
            words.decode(tokens[a:b]) for a, b in zip(starts, [*cuts, len(tokens)], strict=True)
        )
