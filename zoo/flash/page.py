"""What the language models offer on a page: text as it is decoded, masks filled in, classes."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from zoo.flash.figures import MaskedFigures
from zoo.flash.generation import Generation
from zoo.flash.typewriter import Typewriter
from zoo.flash.words import MASK
from zoo.pages import SEED, Control, Number, Result, Switch, Tab, Text


class WritingPages(Generation):
    """Text that goes on."""

    def tabs(self) -> list[Tab]:
        """Text as it is decoded."""
        size = len(self.vocabulary)
        controls: dict[str, Control] = {
            "prompt": Text("Prompt", lines=3, empty=True),
            "tokens": Number("Symbols", 200, 1, 2000),
            "temperature": Number("Temperature", 0.8, 0, 2, 0.05),
            "top_k": Number("Top-k", size, 1, size),
            "top_p": Number("Top-p", 1, 0.01, 1, 0.01),
            "seed": SEED,
            "stop_at_end": Switch("Stop where a text ends"),
        }
        return [Tab("Text", self._typed, controls, [Result("text", "Text", 12)], button="Write")]

    def _typed(self, prompt: str, tokens: int, **options: Any) -> Iterator[tuple[str]]:
        typewriter, text = Typewriter(self.vocabulary, prompt), prompt
        for token in self.stream(prompt, tokens, **options):
            text += typewriter.type(int(token))
            yield (text,)


class MaskPages(MaskedFigures):
    """Masks filled in, or classes."""

    classifier: nn.Module | None
    fill_mask: Callable[..., list[list[list[tuple[Any, float]]]]]
    _encode: Callable[[str], Tensor]

    def tabs(self) -> list[Tab]:
        """What the masks of a text stand for, or the class of a text."""
        text: dict[str, Control] = {"text": Text("Text", lines=3)}
        if self.classifier is not None:
            results = [Result("table", "Classes", {"class": 50, "probability": 50})]
            return [Tab("Class", self._classified, text, results)]
        most = min(self.words.size - 1, 50)
        controls: dict[str, Control] = {**text, "k": Number("Guesses", min(5, most), 1, most)}
        results = [Result("table", "Guesses", {"mask": 20, "symbol": 40, "probability": 40})]
        return [Tab("Masks", self._filled, controls, results, "[MASK] stands for a symbol.")]

    def _filled(self, text: str, k: int) -> tuple[list[list[Any]]]:
        [guesses] = self.fill_mask([text], k=k + 1)  # the mask itself is no answer
        if not guesses:
            raise ValueError("no [MASK] in the text: write [MASK] for a symbol to guess")
        found = [[(s, p) for s, p in best if s != MASK][:k] for best in guesses]
        return ([[i, s, f"{p:.4f}"] for i, best in enumerate(found, 1) for s, p in best],)

    @torch.no_grad()
    def _classified(self, text: str) -> tuple[list[list[Any]]]:
        shares = self(self._encode(text)[None].to(self.device)).float().softmax(-1)[0].tolist()
        return ([[i, f"{share:.4f}"] for i, share in enumerate(shares)],)
