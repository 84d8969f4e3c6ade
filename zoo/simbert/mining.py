"""Similar sentences out of texts that were not written as such (kexue.fm/archives/8454).

The post takes pairs of sentences from answers to one question, or from one document, whose
characters are alike beyond a threshold. It does not give its variant of the Jaccard similarity;
here it is that of multisets of characters, sum min / sum max.
"""

import json
import math
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from hashlib import blake2b
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

from lightning.pytorch.utilities import rank_zero_info

from zoo.data.cache import key_of, locked, stamp
from zoo.data.sentences.rows import Problems
from zoo.data.text.tasks import Executor, TaskPool
from zoo.data.workers import Pool
from zoo.files import naming, replacing
from zoo.reading import numbered_lines, parsed
from zoo.simbert import minhash
from zoo.simbert.catalogues import catalogue_files, catalogue_groups
from zoo.waiting import waiting

Kind = Literal["answers", "documents", "catalogues"]
_END = re.compile(r"(?<=[。！？!?；;\n])|(?<=\. )")
_LEFT_OUT = re.compile(r"[\W_]+")  # what a copy may differ in: punctuation and spaces


def sentences(text: str, shortest: int, longest: int) -> list[str]:
    """The different sentences of a text that are of a length to use."""
    parts = (part.strip() for part in _END.split(text))
    return list(dict.fromkeys(part for part in parts if shortest <= len(part) <= longest))


def likeness(a: str, b: str) -> float:
    """Multiset Jaccard of the characters of two texts: sum of the minima by that of the maxima."""
    x, y = Counter(a), Counter(b)
    return (x & y).total() / max((x | y).total(), 1)


def alike_pairs(texts: Sequence[str], threshold: float) -> list[tuple[int, int]]:
    """All i < j with likeness >= threshold, by an inverted index instead of all comparisons.

    Prefix filtering (Chaudhuri, Ganti, Kaushik 2006; Bayardo, Ma, Srikant 2007): with the
    characters in an order from rare to frequent, two texts as alike as that share one of their
    first n - ceil(threshold n) + 1 characters. No pair is lost.
    """
    # The second "的" of a text is another element than the first: a multiset as a set.
    elements = []
    for text in texts:
        seen: Counter[str] = Counter()
        row = []
        for character in text:
            row.append((character, seen[character]))
            seen[character] += 1
        elements.append(row)
    frequency = Counter(element for row in elements for element in row)
    index: dict[tuple[str, int], list[int]] = {}
    pairs = []
    for j, row in enumerate(elements):
        ordered = sorted(row, key=lambda element: (frequency[element], element))
        prefix = ordered[: len(row) - math.ceil(threshold * len(row) - 1e-9) + 1]
        candidates = {i for element in prefix for i in index.get(element, ())}
        for i in sorted(candidates):
            short, long = sorted((len(elements[i]), len(row)))
            if short >= threshold * long - 1e-9 and likeness(texts[i], texts[j]) >= threshold:
                pairs.append((i, j))
        for element in prefix:
            index.setdefault(element, []).append(j)
    return pairs


def _pairs_of(
    unit: list[str], threshold: float, shortest: int, longest: int
) -> list[tuple[str, str]]:
    """Like pairs of different sentences in the texts of one question or document."""
    found = [s for text in unit for s in sentences(text, shortest, longest)]
    distinct: dict[str, str] = {}
    for sentence in found:
        distinct.setdefault(_LEFT_OUT.sub("", sentence), sentence)
    texts = [sentence for bare, sentence in distinct.items() if bare]
    return [(texts[i], texts[j]) for i, j in alike_pairs(texts, threshold)]


def units(kind: Kind, path: Path) -> Iterator[list[str]]:
    """The texts of each question or document of a file; bad rows are left out and told."""
    if kind == "documents" and ".jsonl" not in path.suffixes:
        lines: list[str] = []
        for _, line in numbered_lines(path):
            if line.strip():
                lines.append(line)
            elif lines:
                yield ["\n".join(lines)]
                lines = []
        if lines:
            yield ["\n".join(lines)]
        return
    name = "answers" if kind == "answers" else "text"
    problems, good = Problems(path), 0
    for number, line in numbered_lines(path):
        if not line.strip():
            continue
        try:
            content = parsed(line)[name]
        except (ValueError, KeyError, TypeError, IndexError):
            problems.add(number, f'no JSON with "{name}"')
            continue
        texts = [content] if isinstance(content, str) else content
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            problems.add(number, f'"{name}" is neither a text nor a list of texts')
            continue
        good += 1
        yield texts
    if problems.rows:
        problems.tell(good)


def mine(
    kind: Kind,
    sources: Sequence[Path],
    output: Path,
    *,
    threshold: float = 0.5,
    shortest: int = 6,
    longest: int = 64,
    processes: int = 1,
) -> int:
    """Writes groups of similar sentences as JSONL, each pair once, and returns how many.

    It streams through the sources, and replaces the output when all is done. The arguments are
    those of `zoo mine-pairs`.
    """
    if not 0 < threshold <= 1 or not 0 < shortest <= longest or processes < 1:
        raise ValueError(
            f"threshold={threshold}, shortest={shortest}, longest={longest}, "
            f"processes={processes}: need 0 < threshold <= 1, 0 < shortest <= longest, a process"
        )
    files = catalogue_files(sources) if kind == "catalogues" else _files(sources)
    output = _output(output, files)
    groups: Iterable[Sequence[str]]
    if kind == "catalogues":
        groups = (g for g in catalogue_groups(sources, shortest) if max(map(len, g)) <= longest)
    else:
        compare = partial(_pairs_of, threshold=threshold, shortest=shortest, longest=longest)
        groups = _mined(compare, (u for file in files for u in units(kind, file)), processes)
    seen: set[bytes] = set()
    with replacing(output) as temporary, temporary.open("w", encoding="utf-8") as file:
        for group in waiting(groups, "mine pairs", unit="groups"):
            # Digests are remembered, and not the texts: corpora are large.
            key = blake2b("\0".join(sorted(group)).encode(), digest_size=16).digest()
            if key not in seen:
                seen.add(key)
                file.write(_row(group))
    return len(seen)


def _row(group: Sequence[str]) -> str:
    return json.dumps({"text": group[0], "synonyms": list(group[1:])}, ensure_ascii=False) + "\n"


def mine_lines(
    sources: Sequence[Path],
    output: Path,
    *,
    threshold: float = 0.8,
    recall: float = 0.95,
    shortest: int = 6,
    longest: int = 64,
    processes: int = 1,
    executor: Executor | None = None,
    tasks: int = 1,
) -> minhash.Mined:
    """Writes all pairs of alike lines of one corpus as JSONL, by MinHash.

    What is made meanwhile lies in a folder beside the output, of 20 bytes a line, 4 more for each
    character and each band, and is removed at the end. The arguments are those of
    `zoo mine-pairs lines`.

    Raises:
        ValueError: An argument is out of its range, the output is a source or no regular file, or
            there are more than 67,108,864 pairs.
    """
    if not 0 < threshold <= 1 or not 0 < recall <= 1 or processes < 1 or tasks < 1:
        raise ValueError(
            f"threshold={threshold}, recall={recall}, processes={processes}, tasks={tasks}: need "
            "0 < threshold <= 1, 0 < recall <= 1, a process, a task"
        )
    if not 0 < shortest <= longest <= minhash.LONGEST:
        raise ValueError(
            f"shortest={shortest}, longest={longest}: need 0 < shortest <= longest <= "
            f"{minhash.LONGEST}"
        )
    files = _files(sources)
    output = _output(output, files)
    made = [[str(file.resolve()), *stamp(file)] for file in files]
    folder = Path(f"{output}.{key_of([made, threshold, recall, shortest, longest])}.parts")
    pool = TaskPool(executor, tasks, folder / "tasks", processes) if executor else Pool(processes)
    with naming(folder), locked(folder, "pairs"), pool:
        try:
            lines = (line for file in files for line in _lines(file, shortest, longest))
            sentences = minhash.write(folder, lines, partial(_LEFT_OUT.sub, ""))
            if not len(sentences):
                raise ValueError(f"{sources[0]} has no line of {shortest} to {longest} characters")
            mined = minhash.pairs(sentences, threshold, recall, pool)
            with replacing(output) as temporary, temporary.open("w", encoding="utf-8") as file:
                found = minhash.texts_of(mined)
                for pair in waiting(found, "write", len(mined.pairs), "pairs"):
                    file.write(_row(pair))
        except BaseException:
            if executor is None:  # nothing that the same command could take
                shutil.rmtree(folder, ignore_errors=True)
            raise
    shutil.rmtree(folder, ignore_errors=True)
    return mined


def _output(output: Path, sources: Sequence[Path]) -> Path:
    """The file to write, which is none of the sources."""
    if output.exists() and not output.is_file():  # a pipe has no path of its own
        raise ValueError(f"{output} is no file: choose another output")
    output = Path(os.path.realpath(output))
    if output in {file.resolve() for file in sources}:
        raise ValueError(f"{output} is one of the sources: choose another output")
    return output


def _lines(path: Path, shortest: int, longest: int) -> Iterator[str]:
    """The lines of a file, or the texts of JSONL, that are of a length to use."""
    texts: Iterable[str]
    if ".jsonl" in path.suffixes:
        texts = (text for unit in units("documents", path) for text in unit)
    else:
        texts = (line for _, line in numbered_lines(path))
    other = read = 0
    for text in texts:
        read += 1
        line = text.strip()
        if shortest <= len(line) <= longest and _LEFT_OUT.sub("", line):
            yield line
        elif line:
            other += 1
    if other:
        rank_zero_info(
            f"{path}: {other:,} of {read:,} lines left out, of fewer than {shortest} or more "
            f"than {longest} characters, or of punctuation alone"
        )


def _files(sources: Sequence[Path]) -> list[Path]:
    return [
        file
        for path in sources
        for file in (sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path])
    ]


def _mined(
    compare: Callable[[list[str]], list[tuple[str, str]]],
    work: Iterable[list[str]],
    processes: int,
) -> Iterator[tuple[str, str]]:
    if processes == 1:
        for unit in work:
            yield from compare(unit)
        return
    with get_context("spawn").Pool(processes) as pool:
        for pairs in pool.imap(compare, work, chunksize=64):
            yield from pairs
