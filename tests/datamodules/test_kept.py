"""What a process keeps on disk that reads sentences, and texts by numbers."""

import tracemalloc

import numpy as np
import pytest

from zoo.data import LabelledPairs, Sentences, SimilarGroups
from zoo.data.sentences import kept, numbered
from zoo.data.sentences.kept import Keep, Spilled
from zoo.data.sentences.numbered import Linked, Numbered, column


@pytest.fixture
def small(monkeypatch):
    """Blocks and parts of a few items."""
    monkeypatch.setattr(kept, "_BLOCK", 3)
    monkeypatch.setattr(numbered, "_PART", 4)


@pytest.mark.parametrize("count", [0, 2, 3, 10])
def test_a_spilled_sequence_is_the_list(count, small, tmp_path):
    items = [(i, f"甲{i}", None) for i in range(count)]
    spilled = Spilled(items[:5], folder=tmp_path)
    for item in items[5:]:
        spilled.append(item)
        assert spilled[-1] == item
    assert list(spilled) == items
    assert len(spilled) == count
    assert spilled[1:7:2] == items[1:7:2]
    # Two readers and a writer at once.
    pairs = [(a, b) for a, b in zip(spilled, spilled, strict=True)]
    assert pairs == [(item, item) for item in items]
    assert [spilled[i] for i in reversed(range(count))] == items[::-1]
    with pytest.raises(IndexError):
        spilled[count]
    assert list(tmp_path.iterdir()) == []


def families(rows):
    """By repeated passes over all pairs of rows."""
    found = list(range(len(rows)))
    for _ in rows:
        for i, a in enumerate(rows):
            for j, b in enumerate(rows):
                if set(a) & set(b):
                    found[i] = found[j] = min(found[i], found[j])
    return found


@pytest.mark.parametrize("disk", [False, True])
def test_rows_are_linked_as_by_comparing_all(disk, small, tmp_path):
    draw = np.random.default_rng(0)
    folder = tmp_path if disk else None
    for n in (0, 1, 7, 23):
        rows = [[f"t{i}" for i in draw.integers(0, 40, draw.integers(1, 4))] for _ in range(n)]
        texts = [text for row in rows for text in row]
        numbers = Numbered(folder)
        numbers.extend(texts)
        assert numbers.firsts().tolist() == [texts.index(text) for text in texts]
        linked = Linked(rows, n, folder)
        assert linked.families().tolist() == families(rows)
        assert linked.families(n // 2).tolist() == families(rows[: n // 2])
        chosen, more = draw.random(n) < 0.2, ["t3", "t3", "none"]
        known = {"t3"} | {t for row, one in zip(rows, chosen, strict=True) if one for t in row}
        expected = [not known.isdisjoint(row) for row in rows]
        assert linked.touching(chosen, iter(more)).tolist() == expected
        assert linked.families().tolist() == families(rows)  # the other texts are no rows
        split = [numbered.fraction(rows[i][0]) for i in families(rows)]
        assert linked.parted(0.3, 0.4).tolist() == [
            1 if u < 0.3 else 2 if u < 0.3 + 0.4 else 0 for u in split
        ]


def test_a_column_that_the_disk_has_no_room_for_is_refused(tmp_path):
    assert column(5, np.int8, tmp_path).tolist() == [0] * 5
    with pytest.raises(OSError, match=r"too large|No space left"):
        column(2**58, np.int64, tmp_path)


KINDS = [
    (SimilarGroups, "a{0} b\tc{0} d\n", "sentence1\tsentence2\n"),
    (LabelledPairs, "a{0} b\tc{0} d\t1\n", "sentence1\tsentence2\tlabel\n"),
    (Sentences, "one sentence more {0}\n", ""),
]


@pytest.mark.parametrize(("kind", "row", "head"), KINDS)
def test_memory_does_not_hold_what_is_read(kind, row, head, tmp_path, monkeypatch):
    monkeypatch.setattr(kept, "_BLOCK", 64)
    monkeypatch.setattr(numbered, "_PART", 256)

    def most(count, folder):
        file = tmp_path / ("t.tsv" if head else "t.txt")
        file.write_text(head + "".join(row.format(i) for i in range(count)))
        data = kind(root=str(file))
        data.keep = Keep(folder)
        tracemalloc.start()
        data.read_here()
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    most(100, tmp_path)  # what is made once
    few, many = most(500, tmp_path), most(2000, tmp_path)
    # Of a row: a byte or two for its split, and eight for its family.
    assert many - few < 1500 * 40
    assert most(2000, None) > 3 * many
