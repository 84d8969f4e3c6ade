"""Mined pairs against all comparisons; catalogues that are written here."""

import json
import struct
from pathlib import Path

import pytest

from tests.simbert.models import texts
from zoo.simbert.catalogues import catalogue_groups, read_mo
from zoo.simbert.mining import alike_pairs, likeness, mine, sentences


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8, 1.0])
def test_candidates_lose_no_pair(threshold):
    many = [
        *texts(60, seed=1, longest=6),
        *texts(20, seed=2, longest=6),
        "甲甲乙",
        "乙甲甲",
        "甲乙乙",
    ]
    expected = [
        (i, j)
        for j in range(len(many))
        for i in range(j)
        if likeness(many[i], many[j]) >= threshold
    ]
    assert sorted(alike_pairs(many, threshold)) == sorted(expected)
    assert len(expected) > 0


def test_likeness_counts_repeated_characters():
    assert likeness("甲甲乙", "甲乙乙") == 2 / 4
    assert likeness("甲乙", "乙甲") == 1
    assert likeness("", "") == 0


def test_sentences_end_at_their_marks():
    text = "第一句话在这里。第二句话呢？短。第二句话呢？\n第四句没有标点"
    assert sentences(text, 4, 20) == ["第一句话在这里。", "第二句话呢？", "第四句没有标点"]


def rows(path="pairs.jsonl"):
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return [(r["text"], *r["synonyms"]) for r in map(json.loads, lines)]


def test_answers_to_one_question_are_compared(tmp_path, zoo_cli):
    questions = [
        {
            "question": "怎么去",
            "answers": ["坐地铁去最方便。别开车。", "最方便是坐地铁去", "坐地铁去最方便！"],
        },
        {"question": "吃什么", "answers": ["坐地铁去最方便了"]},
        {"question": "怎么去", "answers": ["坐地铁去最方便。", "最方便是坐地铁去"]},
    ]
    path = tmp_path / "qa.jsonl"
    path.write_text("\n".join(json.dumps(q, ensure_ascii=False) for q in questions), "utf-8")
    code, out, err = zoo_cli("mine-pairs", "answers", path, "-o", "pairs.jsonl", "--threshold", 0.5)
    assert code == 0, err
    assert "1 groups in pairs.jsonl" in out
    # Not across questions, not copies but for a mark, and each pair once.
    assert rows() == [("坐地铁去最方便。", "最方便是坐地铁去")]


def test_documents_are_compared_in_parallel_too(tmp_path):
    many = texts(40, seed=3, shortest=6, longest=8)
    documents = ["\n".join(f"{t}。{t[::-1]}乙。" for t in many[i : i + 4]) for i in range(0, 40, 4)]
    path = tmp_path / "docs.txt"
    path.write_text("\n\n".join(documents), encoding="utf-8")
    found = []
    for processes in (1, 2):
        out = tmp_path / f"{processes}.jsonl"
        count = mine("documents", [path], out, threshold=0.7, processes=processes)
        found.append(rows(out))
        assert len(found[-1]) == count >= 40
    assert found[0] == found[1]


def write_mo(path, messages, order="<"):
    """A message catalogue as msgfmt writes it."""
    pairs = sorted({"": "Content-Type: text/plain; charset=UTF-8\n", **messages}.items())
    keys, values = ([p[i].encode() for p in pairs] for i in (0, 1))
    start = 28 + 16 * len(pairs)
    tables, blob = [], b""
    for column in (keys, values):
        for text in column:
            tables.append((len(text), start + len(blob)))
            blob += text + b"\0"
    header = struct.pack(f"{order}7I", 0x950412DE, 0, len(pairs), 28, 28 + 8 * len(pairs), 0, 0)
    body = b"".join(struct.pack(f"{order}2I", *t) for t in tables)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header + body + blob)
    return path


@pytest.mark.parametrize("order", ["<", ">"])
def test_catalogues_of_both_byte_orders_are_read(tmp_path, order):
    messages = {"_Open": "打开(_O)", "menu\x04Save": "保存", "%d file\0%d files": "%d 个文件"}
    read = read_mo(write_mo(tmp_path / "a.mo", messages, order))
    assert read == {"_Open": "打开(_O)", "Save": "保存", "%d file": "%d 个文件"}


def test_translations_of_one_message_are_a_group(tmp_path):
    share = tmp_path / "locale"
    first = {
        "Could not open the _file.": "无法打开这个文件。",
        "Save as...": "另存为",
        "%d files left": "剩余的文件数目 %d",
        "Nothing to do": "没有要做的事情",
    }
    second = {
        "could not open the file": "不能打开该文件",
        "Nothing to do!": "没有要做的事情！",
        "Save as": "保存为",
    }
    write_mo(share / "zh_CN" / "LC_MESSAGES" / "one.mo", first)
    write_mo(share / "zh_CN" / "LC_MESSAGES" / "two.mo", second)
    write_mo(share / "ja" / "LC_MESSAGES" / "one.mo", {"Nothing to do": "何もすることがありません"})
    groups = list(catalogue_groups([share], shortest=4))
    assert groups == [["无法打开这个文件。", "不能打开该文件"]]
    assert mine("catalogues", [share], tmp_path / "out.jsonl", shortest=4) == 1
    assert rows(tmp_path / "out.jsonl") == [tuple(groups[0])]


def test_traditional_catalogues_are_converted(tmp_path):
    pytest.importorskip("opencc")
    for locale, text in (("zh_CN", "无法打开该文件"), ("zh_TW", "無法開啟該檔案")):
        write_mo(tmp_path / locale / "LC_MESSAGES" / "a.mo", {"Cannot open": text})
    assert list(catalogue_groups([tmp_path])) == [["无法打开该文件", "无法开启该档案"]]
    assert list(catalogue_groups([tmp_path], simplify=False)) == []


def test_bad_rows_are_left_out_and_told(tmp_path):
    good = json.dumps({"answers": ["坐地铁去最方便。", "最方便是坐地铁去"]}, ensure_ascii=False)
    bad = ['{"answers": 5}', '{"answers": null}', '{"answers": [1, 2]}', "[]", "x"]
    path = tmp_path / "qa.jsonl"
    path.write_text("\n".join([*bad[:3], good, *bad[3:]]), encoding="utf-8")
    for processes in (1, 2):
        with pytest.warns(UserWarning, match=r'left out 5 of 6 rows: .*line 1: "answers" is nei'):
            assert mine("answers", [path], tmp_path / "o.jsonl", processes=processes) == 1
    assert rows(tmp_path / "o.jsonl") == [("坐地铁去最方便。", "最方便是坐地铁去")]


def test_the_output_is_replaced_at_the_end_and_is_no_source(tmp_path):
    path = tmp_path / "d.txt"
    path.write_text("坐地铁去最方便。最方便是坐地铁去", encoding="utf-8")
    before = path.read_bytes()
    (tmp_path / "link.txt").symlink_to(path)
    for source, output in ((path, path), (tmp_path, path), (path, tmp_path / "link.txt")):
        with pytest.raises(ValueError, match="is one of the sources"):
            mine("documents", [source], output)
    with pytest.raises(ValueError, match="is no file"):
        mine("documents", [path], tmp_path)
    assert path.read_bytes() == before
    output = tmp_path / "made" / "o.jsonl"
    assert mine("documents", [path], output) == 1
    kept = output.read_bytes()
    path.write_bytes(before + b"\n\n\xff\n")
    with pytest.raises(ValueError, match=r"d\.txt, line 3: not UTF-8"):
        mine("documents", [path], output)
    assert output.read_bytes() == kept
    assert list(output.parent.iterdir()) == [output]


def test_damaged_catalogues_are_told(tmp_path):
    messages = {"Cannot open": "无法打开该文件"}
    good = write_mo(tmp_path / "zh_CN" / "a.mo", messages)
    cut, odd = (tmp_path / "zh_CN" / name for name in ("b.mo", "c.mo"))
    cut.write_bytes(good.read_bytes()[:-4])
    odd.write_bytes(good.read_bytes().replace(b"UTF-8", b"UTF-0"))
    for path, told in ((cut, "b.mo is cut off"), (odd, "c.mo: there is no charset UTF-0")):
        with pytest.raises(ValueError, match=told):
            list(catalogue_groups([path]))
    write_mo(tmp_path / "zh_CN" / "d.mo", {"cannot open": "不能打开此文件"})
    with pytest.warns(UserWarning, match="left out: ") as warned:
        assert list(catalogue_groups([tmp_path])) == [["无法打开该文件", "不能打开此文件"]]
    assert len(warned) == 2


def test_mistakes_are_told(tmp_path, mistake):
    (tmp_path / "a.jsonl").write_text("x\n")
    assert "line 1: no JSON" in mistake("mine-pairs", "answers", "a.jsonl")
    assert "no such file" in mistake("mine-pairs", "answers", "b.jsonl")
    assert "threshold=0" in mistake("mine-pairs", "answers", "a.jsonl", "--threshold", 0)
    assert "no zh_CN or zh_TW" in mistake("mine-pairs", "catalogues", tmp_path)
    assert "is not a message catalogue" in mistake("mine-pairs", "catalogues", "a.jsonl")
