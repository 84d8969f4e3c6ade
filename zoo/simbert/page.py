"""What a sentence model offers on a page: paraphrases, similar sentences of a file, a cosine."""

from functools import lru_cache
from typing import Any

from zoo.pages import SEED, Control, Number, Result, Tab, Text, Upload
from zoo.simbert.index import SentenceIndex
from zoo.simbert.paraphrase import Paraphrasing
from zoo.simbert.sentences import Encoding

_RANKED = [Result("table", "Sentences", {"cosine": 25, "sentence": 75})]


class Pages(Encoding):
    """Sentences and their likenesses."""

    def tabs(self) -> list[Tab]:
        """Paraphrases where the model writes, neighbours in a file, and a pair."""
        if not len(self.tokenizer):
            raise ValueError("this model has no vocabulary yet: train it on sentences")
        # Of the last file, since a second question about it is usual.
        index = lru_cache(maxsize=1)(lambda lines: SentenceIndex.build(self, lines, progress=True))

        def neighbours(file: list[str], query: str, k: int) -> tuple[list[list[str]]]:
            [found] = self.similar([query], index(tuple(file)), k=k)
            return ([[f"{cosine:.4f}", text] for text, cosine in found],)

        def cosine(a: str, b: str) -> tuple[str]:
            return (f"cosine {float(self.similarity([a], [b])):.4f}",)

        search: dict[str, Control] = {
            "file": Upload("File of one sentence a line"),
            "query": Text("Sentence"),
            "k": Number("Neighbours", 10, 1, 100),
        }
        pair = {"a": Text("One sentence"), "b": Text("Another")}
        tabs = [
            Tab("Similar sentences", neighbours, search, _RANKED, button="Search"),
            Tab("Pair", cosine, pair, [Result("text", "Similarity")], button="Compare"),
        ]
        if not isinstance(self, Paraphrasing):
            return tabs
        controls: dict[str, Control] = {
            "text": Text("Sentence"),
            "n": Number("Sentences to write", 50, 1, 500),
            "k": Number("Sentences to show", 20, 1, 100),
            "top_p": Number("Top-p", 0.95, 0.01, 1, 0.01),
            "temperature": Number("Temperature", 1, 0, 2, 0.05),
            "seed": SEED,
        }
        note = "Copies are left out; the nearest come first."
        return [
            Tab("Paraphrases", self._ranked, controls, _RANKED, note, button="Write"),
            *tabs,
        ]

    def _ranked(self, text: str, n: int, k: int, **sampling: Any) -> tuple[list[list[str]]]:
        assert isinstance(self, Paraphrasing)
        found = self.paraphrase(text, n, k, **sampling)
        if not found:
            raise ValueError("no sentence but copies: write more, or at a higher temperature")
        return ([[f"{one.similarity:.4f}", one.text] for one in found],)
