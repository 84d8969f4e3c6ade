"""The alike pairs of millions of sentences: MinHash, whose bands are sorted (Broder 1997).

A sentence is the multiset of its characters, each an element with its number ("的" and a second
"的" are two), so that the Jaccard similarity of two sets of elements is `likeness`. The least of a
random hash over a set is the same for two sets with the probability of their similarity s; a band
of r hashes with s^r, and one of b bands with 1 - (1 - s^r)^b. Sentences with equal bands are
candidates: neighbours in the order of the band. Of these a bound from 128 bits and then the exact
similarity decide, so that what is found is right, and what is lost is known.

All numbers lie in files that are mapped, and are made in pieces: by processes of one machine, or
tasks that see the same folder.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from zoo.data.sentences.mapped import MappedTexts, mapped, write_distinct
from zoo.data.workers import Pool
from zoo.waiting import Bar

LONGEST = 1024
"""Most characters of a sentence here."""
_BLOCK = 65_536  # sentences whose numbers are made together
_ROWS = 64  # of which hashes are compared together: they stay in the processor's cache
_ALL = 10_000  # sentences of which all pairs are looked at
_RUN = 2**14  # sentences of one band: each is compared with so many that follow
_PAIRS = 2**20  # candidates that are looked at together
_SAMPLE = 2**17  # pairs whose similarities say how many candidates there will be
_MOST = 2**26  # pairs that are found
_WORDS = 2  # of 64 bits, of which each element turns one over
_NONE = np.uint32(2**32 - 1)  # no element: its character would be none
# Time of a hash of an element, of the sort of a sentence in a band, and of a candidate: relative.
_HASH, _SORT, _CANDIDATE = 1.0, 100.0, 20.0

Numbers = NDArray[Any]


class Plan(NamedTuple):
    """How candidates are found."""

    folder: str
    """Where the sentences and their numbers lie."""
    threshold: float
    """Least similarity of a pair."""
    rows: int
    """Hashes of a band; 0: all pairs are candidates."""
    bands: int
    """How many bands there are."""

    def finds(self, similarity: Any) -> Any:
        """The probability with which a pair of this similarity is found."""
        if not self.rows:
            return np.ones_like(similarity, dtype=np.float64)
        with np.errstate(divide="ignore"):
            missed = self.bands * np.log1p(-(np.asarray(similarity, np.float64) ** self.rows))
        return -np.expm1(missed)


class Sentences:
    """Sentences and their numbers, mapped from a folder.

    Args:
        folder: What `write` has written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.texts = MappedTexts(Path(folder, "texts"))
        self.ends = mapped(Path(folder, "elements.ends"), "<i8")
        self.elements = mapped(Path(folder, "elements"), "<u4")
        self.words = mapped(Path(folder, "bits"), "<u8").reshape(-1, _WORDS)

    def __len__(self) -> int:
        return len(self.ends)

    def lengths(self, rows: Any) -> Numbers:
        """Elements of some sentences, int64."""
        return self.ends[rows] - self.starts(rows)

    def starts(self, rows: Any) -> Numbers:
        """Where the elements of some sentences begin, int64."""
        return np.where(rows > 0, self.ends[rows - 1], 0)

    def likeness(self, first: Numbers, second: Numbers) -> Numbers:
        """The similarities of pairs of sentences, float64 (N)."""
        shared = np.empty(len(first), np.int64)
        for begin in range(0, len(first), _ROWS**2):
            some = slice(begin, begin + _ROWS**2)
            both = np.hstack([self._padded(first[some]), self._padded(second[some])])
            both.sort(1)
            shared[some] = ((both[:, 1:] == both[:, :-1]) & (both[:, 1:] != _NONE)).sum(1)
        return shared / (self.lengths(first) + self.lengths(second) - shared)

    def _padded(self, rows: Numbers) -> Numbers:
        starts, lengths = self.starts(rows), self.lengths(rows)
        places = np.arange(lengths.max(initial=0))
        at = np.minimum(starts[:, None] + places, len(self.elements) - 1)
        return np.where(places < lengths[:, None], self.elements[at], _NONE)


def write(
    folder: Path, texts: Iterable[str], bare: Callable[[str], str] = lambda text: text
) -> Sentences:
    """Writes sentences with their elements and bits; of those with equal `bare`, the first.

    Raises:
        ValueError: One has over 1,024 characters.
    """
    distinct = write_distinct(folder / "texts", texts, bare)
    with (
        (folder / "elements").open("wb") as elements,
        (folder / "elements.ends").open("wb") as ends,
        (folder / "bits").open("wb") as bits,
        Bar("number characters", len(distinct), "sentences") as bar,
    ):
        total = 0
        for start in range(0, len(distinct), _BLOCK):
            some = distinct[start : start + _BLOCK]
            found, lengths = elements_of(some)
            last = total + np.cumsum(lengths)
            total = int(last[-1])
            elements.write(found.astype("<u4").tobytes())
            ends.write(last.astype("<i8").tobytes())
            bits.write(_bits(found, lengths).astype("<u8").tobytes())
            bar.update(len(some))
    return Sentences(folder)


def elements_of(texts: Sequence[str]) -> tuple[Numbers, Numbers]:
    """The elements of all texts, one after the other, uint32, and how many each has, int64 (N).

    An element is a character (21 bits) and how many of it came before in the text.
    """
    lengths = np.array([len(text) for text in texts], np.int64)
    if lengths.max(initial=0) > LONGEST:
        raise ValueError(f"a sentence of {lengths.max()} characters: at most {LONGEST}")
    characters = np.frombuffer("".join(texts).encode("utf-32-le"), "<u4").astype(np.uint64)
    owner = np.repeat(np.arange(len(texts), dtype=np.uint64), lengths)
    ordered = np.sort(owner << np.uint64(21) | characters)
    places = np.arange(len(ordered))
    new = np.ones(len(ordered), bool)
    new[1:] = ordered[1:] != ordered[:-1]
    before = places - np.maximum.accumulate(np.where(new, places, 0))
    character = ordered & np.uint64(2**21 - 1)
    return (character | before.astype(np.uint64) << np.uint64(21)).astype(np.uint32), lengths


def _bits(elements: Numbers, lengths: Numbers) -> Numbers:
    """Words of which each element turns one bit over, uint64 (N, words).

    The bits that differ between two texts are no more than the elements that do (Sandes, Teodoro
    and Melo 2017).
    """
    hashed = _mixed(elements.astype(np.uint64))
    bit = np.uint64(1) << (hashed & np.uint64(63))
    word = (hashed >> np.uint64(6)) % np.uint64(_WORDS)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    words = np.zeros((len(lengths), _WORDS), np.uint64)
    np.bitwise_xor.at(words, (owner, word.astype(np.int64)), bit)
    return words


def _mixed(numbers: Numbers) -> Numbers:
    """A pseudo-random bijection of uint64, the finaliser of SplitMix64 (Steele et al. 2014)."""
    mixed = numbers + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ mixed >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ mixed >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return mixed ^ mixed >> np.uint64(31)


def plan(sentences: Sentences, threshold: float, recall: float) -> Plan:
    """The bands that take the least time and find a pair at the threshold as often as is asked.

    How many candidates they give is reckoned from the similarities of 131,072 random pairs. Of up
    to 10,000 sentences all pairs are looked at.
    """
    count, folder = len(sentences), str(sentences.folder)
    everything = Plan(folder, threshold, 0, 1)
    if count <= _ALL or recall == 1:
        return everything
    draw = np.random.default_rng(0)
    first = draw.integers(0, count, _SAMPLE)
    second = (first + draw.integers(1, count, _SAMPLE)) % count
    similarities = sentences.likeness(first, second)
    length = len(sentences.elements) / count
    best, least = everything, _CANDIDATE * count**2 / 2
    for rows in range(1, 33):
        # The least number of bands that finds a pair at the threshold with this probability.
        wanted = math.log1p(-recall) / math.log1p(-min(threshold**rows, 1 - 1e-12))
        tried = Plan(folder, threshold, rows, math.ceil(wanted - 1e-9))
        share = float(np.mean(tried.finds(np.minimum(similarities, 1 - 1e-12))))
        cost = count * tried.bands * (_HASH * rows * length + _SORT)
        cost += _CANDIDATE * share * count**2 / 2
        if cost < least:
            best, least = tried, cost
    return best


def keys(piece: tuple[int, int], plan: Plan) -> tuple[Numbers]:
    """A number of each band of each sentence from start to stop, uint32 (bands, N)."""
    start, stop = piece
    sentences = Sentences(plan.folder)
    rows = np.arange(start, stop)
    lengths, begins = sentences.lengths(rows), sentences.starts(rows)
    # The longest first: those that have an element at a place are then the first of all.
    order = np.argsort(-lengths, kind="stable")
    lengths, begins = lengths[order], begins[order] - begins[0]
    codes, number_of = np.unique(
        sentences.elements[sentences.starts(rows)[0] : sentences.ends[stop - 1]],
        return_inverse=True,
    )
    found = np.empty((plan.bands, len(rows)), np.uint32)
    together = max(1, 256 // plan.rows)
    for band in range(0, plan.bands, together):
        bands = min(together, plan.bands - band)
        seeds = np.arange(band * plan.rows, (band + bands) * plan.rows, dtype=np.uint64) + 1
        hashes = _mixed(codes.astype(np.uint64)[:, None] + _mixed(seeds << np.uint64(32)))
        table = (hashes >> np.uint64(32)).astype(np.uint32)
        for row in range(0, len(rows), _ROWS):
            some = slice(row, row + _ROWS)
            least = _least(table, number_of, begins[some], lengths[some])
            mixed = least.reshape(len(least), bands, plan.rows).astype(np.uint64)
            key = np.zeros((len(least), bands), np.uint64)
            for i in range(plan.rows):
                key = _mixed(key ^ mixed[..., i])
            found[band : band + bands, order[some]] = (key >> np.uint64(32)).astype(np.uint32).T
    return (found,)


def _least(table: Numbers, number_of: Numbers, begins: Numbers, lengths: Numbers) -> Numbers:
    """The least of each hash over the elements of each sentence; the longest come first."""
    least = table[number_of[begins]]
    for place in range(1, int(lengths[0])):
        having = int(np.searchsorted(-lengths, -place, "left"))
        np.minimum(least[:having], table[number_of[begins[:having] + place]], out=least[:having])
    return least


def alike(band: int, plan: Plan) -> tuple[Numbers, Numbers]:
    """The alike pairs of one band that no band before has, and facts.

    Returns:
        Pairs i < j as i 2^32 + j, uint64 (N); how many candidates there were, and how many
        sentences were not compared with all of their band, int64 (2).

    Raises:
        ValueError: There are too many.
    """
    sentences = Sentences(plan.folder)
    count = len(sentences)
    every = _all_keys(plan, count)
    key = np.zeros(count, np.uint64) if every is None else every[band].astype(np.uint64)
    ordered = np.sort(key << np.uint64(32) | np.arange(count, dtype=np.uint64))
    key, who = ordered >> np.uint64(32), (ordered & np.uint64(2**32 - 1)).astype(np.int64)
    words, lengths = sentences.words[who], sentences.lengths(who)
    found: list[Numbers] = []
    candidates = pairs = 0
    here = np.flatnonzero(key[1:] == key[:-1])
    run = count if every is None else _RUN
    distance = 0
    for distance in range(1, run + 1):
        here = here[here + distance < count]
        here = here[key[here] == key[here + distance]]
        if not len(here):
            break
        candidates += len(here)
        for begin in range(0, len(here), _PAIRS):
            a = here[begin : begin + _PAIRS]
            b = a + distance
            kept = _may_be(plan.threshold, words, lengths, a, b)
            first, second = who[a[kept]], who[b[kept]]
            for before in range(band):
                assert every is not None
                new = every[before][first] != every[before][second]
                first, second = first[new], second[new]
            exact = sentences.likeness(first, second) >= plan.threshold
            some = first[exact].astype(np.uint64) << np.uint64(32) | second[exact].astype(np.uint64)
            found.append(some)
            pairs += len(some)
            _check(pairs)
    facts = np.array([candidates, len(here) if distance == run else 0], np.int64)
    return np.sort(np.concatenate([*found, np.empty(0, np.uint64)])), facts


def _all_keys(plan: Plan, count: int) -> Numbers | None:
    if not plan.rows:
        return None
    return mapped(Path(plan.folder, "keys"), "<u4").reshape(plan.bands, count)


def _may_be(threshold: float, words: Numbers, lengths: Numbers, a: Numbers, b: Numbers) -> Numbers:
    """Which pairs can be alike, by a bound on the elements in which they differ."""
    total = lengths[a] + lengths[b]
    # (total - d) / (total + d) >= threshold for d elements that differ.
    most = total * ((1 - threshold) / (1 + threshold)) + 1e-6
    kept = np.flatnonzero(np.abs(lengths[a] - lengths[b]) <= most)
    differ = np.zeros(len(kept), np.int64)
    for word in range(_WORDS):
        differ += _ones(words[a[kept], word] ^ words[b[kept], word])
        still = differ <= most[kept]
        kept, differ = kept[still], differ[still]
    return kept


def _ones(words: Numbers) -> Numbers:
    """How many bits of each word are 1, int64."""
    halves = words - (words >> np.uint64(1) & np.uint64(0x5555555555555555))
    fours = (halves & np.uint64(0x3333333333333333)) + (
        halves >> np.uint64(2) & np.uint64(0x3333333333333333)
    )
    bytes_ = fours + (fours >> np.uint64(4)) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (bytes_ * np.uint64(0x0101010101010101) >> np.uint64(56)).astype(np.int64)


def _check(pairs: int) -> None:
    if pairs > _MOST:
        raise ValueError(
            f"more than {_MOST:,} alike pairs: raise --threshold, or leave out lines that one "
            "template has made"
        )


class Mined(NamedTuple):
    """What `pairs` has found."""

    sentences: Sentences
    pairs: Numbers
    """Pairs i < j, in order, int64 (N, 2)."""
    plan: Plan
    candidates: int
    """How many pairs were looked at."""
    cut: int
    """Sentences that were not compared with all of their band."""

    def words(self) -> str:
        """What was looked at, and what may be lost."""
        count, threshold = len(self.sentences), self.plan.threshold
        text = f"{self.candidates:,} of {count * (count - 1) // 2:,} compared"
        if self.plan.rows:
            at, above = threshold, (1 + threshold) / 2
            text += f" (of those alike by {at:.2g} {self.plan.finds(at):.1%} are expected here, by "
            text += f"{above:.2g} {self.plan.finds(above):.1%})"
        if self.cut:
            text += f"; {self.cut:,} lines are like over {_RUN:,} others, not compared with all"
        return text


def pairs(sentences: Sentences, threshold: float, recall: float, pool: Pool) -> Mined:
    """The pairs of sentences whose similarity is at least the threshold.

    Args:
        sentences: What `write` wrote; their folder has room for 4 bytes a sentence and band.
        threshold: The least similarity, in (0, 1].
        recall: Least share of the pairs at the threshold that is expected to be found; more alike
            ones are found more often. With 1 all pairs are compared.
        pool: What works on the pieces.
    """
    how, count = plan(sentences, threshold, recall), len(sentences)
    if how.rows:
        starts = range(0, count, _BLOCK)
        pieces = [(start, min(start + _BLOCK, count)) for start in starts]
        file = np.memmap(sentences.folder / "keys", "<u4", "w+", shape=(how.bands, count))
        with Bar("hash", count, "sentences") as bar:
            for piece, (found,) in zip(pieces, pool.map(keys, pieces, how), strict=True):
                file[:, slice(*piece)] = found
                bar.update(len(found[0]))
        file.flush()
    many: list[Numbers] = []
    candidates = cut = 0
    with Bar("compare", how.bands, "bands") as bar:
        for some, facts in pool.map(alike, list(range(how.bands)), how):
            many.append(some)
            _check(sum(map(len, many)))
            candidates, cut = candidates + int(facts[0]), max(cut, int(facts[1]))
            bar.update()
    codes = np.sort(np.concatenate([*many, np.empty(0, np.uint64)]))
    both = np.stack([codes >> np.uint64(32), codes & np.uint64(2**32 - 1)], 1).astype(np.int64)
    return Mined(sentences, both, how, candidates, cut)


def texts_of(mined: Mined) -> Iterator[tuple[str, str]]:
    """The two sentences of each pair."""
    texts = mined.sentences.texts
    return ((texts[i], texts[j]) for i, j in mined.pairs.tolist())
