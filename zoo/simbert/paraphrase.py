"""Similar sentences of a sentence: generated, told apart and ranked."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lightning.pytorch.utilities import rank_zero_info
from torch.nn import functional as F

from zoo.data.protocols import HasGroups, datamodule_of
from zoo.data.sentences.tokenizer import MAX_LENGTH
from zoo.display import Table
from zoo.layers.choose import TokenSampling
from zoo.layers.precision import product
from zoo.simbert.decoding import NUCLEUS, beam_search, sample
from zoo.simbert.sentences import Encoding, checked
from zoo.training.module import evaluating

_EVALUATED = 10  # paraphrases a sentence that a test judges
_SHOWN = 3  # sentences that a test shows, and paraphrases of each


class Paraphrase(NamedTuple):
    """A similar sentence."""

    text: str
    similarity: float
    """Cosine with the source."""
    finished: bool
    """False for a sentence that was cut at the limit, kept by unfinished=mark."""


class Paraphrases(list[Paraphrase]):
    """The similar sentences of a sentence, which a notebook shows as a table."""

    def _repr_html_(self) -> str:
        columns = {name: [getattr(p, name) for p in self] for name in Paraphrase._fields}
        return Table(columns)._repr_html_()


class Paraphrasing(Encoding):
    """Sentences to sentences that say the same."""

    def paraphrase(self, text: str, n: int = 100, k: int = 20, **options: Any) -> Paraphrases:
        """Sentences that say the same as one; arguments and options as for `paraphrases`.

        >>> import zoo
        >>> model = zoo.SimBERT(vocab_size=12, hidden=8, layers=1, heads=2)
        >>> model.tokenizer.adopt(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefg"])
        >>> len(model.paraphrase("abc", n=4, k=2, max_new=3, unfinished="mark"))
        2
        """
        return self.paraphrases([text], n, k, **options)[0]

    def paraphrases(
        self,
        texts: Sequence[str],
        n: int = 100,
        k: int = 20,
        *,
        top_p: float = 0.95,
        top_k: int = 0,
        temperature: float = 1.0,
        beams: int = 0,
        max_new: int = MAX_LENGTH,
        seed: int = 0,
        batch_size: int = 256,
        unfinished: Literal["drop", "mark"] = "drop",
    ) -> list[Paraphrases]:
        """Sentences that say the same, the nearest first (gen_synonyms of kexue.fm/archives/7427).

        Of each text n sentences are generated, of which copies of the source and of one another are
        left out, and the k nearest by the model's own cosine are returned. `[MASK]` in a text
        stands for a token to be filled in. Special tokens are never generated, and the same seed
        gives the same sentences.

        Args:
            texts: Sentences.
            n: Sentences to generate of each; at most `beams` with beams.
            k: Sentences to return of each, at most.
            top_p: Nucleus sampling: least tokens with this probability; 1 for all.
            top_k: Most tokens to choose from; 0 for all.
            temperature: Temperature of the sampling; 0 is greedy.
            beams: Beam search of this width instead of sampling, without the arguments that are of
                sampling; 0 for sampling.
            max_new: Most tokens of a sentence.
            seed: Seed of the draws.
            batch_size: Sentences at a time.
            unfinished: What to do with sentences that reach max_new: drop them, or mark them.

        Raises:
            ValueError: A value is out of range.
        """
        if n < 1 or k < 1 or max_new < 1 or batch_size < 1:
            raise ValueError(
                f"n={n}, k={k}, max_new={max_new}, batch_size={batch_size}: need 1 or more"
            )
        if beams < 0:
            raise ValueError(f"beams={beams}: 0 samples, 1 or more search")
        sampling = TokenSampling(top_p, top_k or None, temperature, seed)
        given = [
            (name, value)
            for name, value in asdict(sampling).items()
            if value != getattr(NUCLEUS, name)
        ]
        if beams and given:
            raise ValueError(f"{given[0][0]}={given[0][1]} has no effect with beams={beams}")
        if unfinished not in ("drop", "mark"):
            raise ValueError(f"unfinished={unfinished!r}: choose drop or mark")
        texts, length = checked(texts, "paraphrases"), self.length()
        sources = [self.tokenizer.encode_masked(t, length) for t in texts]
        sizes: Any = {"max_new": max_new, "batch_size": batch_size}
        if beams:
            made = beam_search(self, sources, min(n, beams), beams=beams, **sizes)
        else:
            made = sample(self, sources, n, sampling=sampling, **sizes)
        ranked = []
        for source, targets in zip(sources, made, strict=True):
            finished: dict[str, bool] = {}
            for target in targets:
                if target.finished or unfinished == "mark":
                    found = self.tokenizer.decode(target.tokens)
                    finished[found] = finished.get(found, False) or target.finished
            # Compared as decoded, so that a change of case or of spaces alone is a copy.
            finished.pop(self.tokenizer.decode(source), None)
            finished.pop("", None)
            ranked.append(self._rank(source, finished, k, batch_size))
        return ranked

    def _rank(
        self, source: list[int], finished: dict[str, bool], k: int, batch_size: int
    ) -> Paraphrases:
        with evaluating(self):
            query = F.normalize(self.rows_vectors([source]).float(), dim=-1).cpu()
        found = list(finished)
        vectors = self.encode(found, batch_size=batch_size)
        cosine = product(vectors, query.T).flatten().tolist()
        order = sorted(range(len(found)), key=lambda i: -cosine[i])[:k]
        return Paraphrases(Paraphrase(found[i], cosine[i], finished[found[i]]) for i in order)

    def texts(self, n: int, /, *, seed: int = 0) -> dict[str, list[str] | list[float]]:
        """The nearest paraphrases of the first n validation sentences, as a table."""
        data = datamodule_of(self._trainer)
        if self.purpose != "similar" or not isinstance(data, HasGroups):
            return {}
        sources = [group[0] for group in data.groups("val")[:n]]
        found = self.paraphrases(sources, _EVALUATED, _SHOWN, seed=seed) if sources else []
        rows = [(s, p) for s, ranked in zip(sources, found, strict=True) for p in ranked]
        return {
            "sentence": [source for source, _ in rows],
            "paraphrase": [paraphrase.text for _, paraphrase in rows],
            "similarity": [paraphrase.similarity for _, paraphrase in rows],
        }

    def generation_numbers(
        self, texts: Sequence[str], folder: str | Path | None = None
    ) -> dict[str, float]:
        """How varied, how new and how near 10 nucleus samples a text are.

        distinct_1 and distinct_2: different of all characters and pairs of characters; copy_rate:
        samples that are their source; mean_cosine: with the source; unfinished: cut at the limit.

        Args:
            texts: Sources.
            folder: Where to write paraphrases.txt, by the first process, which logs some of it.
        """
        sources = self.tokenizer.encode(texts, self.length())
        made = sample(self, sources, _EVALUATED)
        lines, written, of = [], [], []
        for i, (source, targets) in enumerate(zip(sources, made, strict=True)):
            lines.append(f"{self.tokenizer.decode(source)}")
            for target in targets:
                if target.finished:
                    written.append(self.tokenizer.decode(target.tokens))
                    of.append(i)
        total = len(texts) * _EVALUATED
        values = {"unfinished": 1 - len(written) / total}
        if written:
            vectors, queries = self.encode(written), self.encode(texts)
            cosine = (vectors * queries[of]).sum(1)
            copies = [lines[i] == text for i, text in zip(of, written, strict=True)]
            for size in (1, 2):
                grams = [t[j : j + size] for t in written for j in range(len(t) - size + 1)]
                values[f"distinct_{size}"] = len(set(grams)) / max(len(grams), 1)
            values |= {"copy_rate": sum(copies) / len(copies), "mean_cosine": float(cosine.mean())}
            if folder is not None and self.global_rank == 0:
                _tell(Path(folder), lines, list(zip(of, written, cosine.tolist(), strict=True)))
        return values


def _tell(folder: Path, sources: list[str], rows: list[tuple[int, str, float]]) -> None:
    """Writes paraphrases.txt, and logs some of it."""
    text, shown = [], []
    for i, source in enumerate(sources):
        own = {t: c for of, t, c in rows if of == i}
        ranked = sorted(own.items(), key=lambda item: -item[1])
        found = [f"    {cosine:.4f}  {written}" for written, cosine in ranked]
        text += [source, *found]
        if i < _SHOWN:
            shown += [source, *found[:_SHOWN]]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "paraphrases.txt").write_text("\n".join(text) + "\n", encoding="utf-8")
    rank_zero_info("\n".join(["", *shown]))
