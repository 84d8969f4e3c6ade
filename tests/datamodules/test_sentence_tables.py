"""Tables of sentences: columns by name, quoting, labels and their scales, and what is refused."""

import csv
import gzip
import json

import pytest

from zoo.data import LabelledPairs, Sentences, SimilarGroups
from zoo.data.sentences.files import Reading, read_file
from zoo.data.sentences.labels import kind_of
from zoo.data.sentences.tables import table_of


def write(path, *lines):
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def read_groups(path, reading=Reading()):  # noqa: B008
    return read_file(path, reading).similar()


def read_labelled(path):
    return read_file(path).labelled()


GLUE = {
    "qqp": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
    "mrpc": "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String",
    "sts": "index\tgenre\tsource1\tsource2\tsentence1\tsentence2\tscore",
    "mnli": "index\tsentence1_parse\tsentence2_parse\tsentence1\tsentence2\tlabel1\tgold_label",
    "paws": "id\tsentence1\tsentence2\tlabel",
    "spelt": "Sentence_A\tSentence_B\tLabel",
    "text": "Text 1\tText 2\tSimilarity",
    "premise": "premise\thypothesis\tlabel",
    "source": "source\ttarget\tscore",
    "chinese": "句子1\t句子2\t标签",
}


@pytest.mark.parametrize("name", GLUE)
def test_columns_are_found_by_name(tmp_path, name):
    header = GLUE[name].split("\t")
    named = ("text", "spelt", "premise", "source", "chinese")
    sentences = {"mrpc": (3, 4), **dict.fromkeys(named, (0, 1))}
    first, second = sentences.get(
        name, tuple(i for i, h in enumerate(header) if h in ("sentence1", "question1"))[:1] * 2
    )
    second = second + 1 if first == second else second
    label = 0 if name == "mrpc" else len(header) - 1
    rows = []
    for i in range(4):
        cells = [str(10 * i + j) for j in range(len(header))]
        cells[first], cells[second], cells[label] = f"left {i}", f"right {i}", str(i % 2)
        rows.append("\t".join(cells))
    pairs = read_labelled(write(tmp_path / "t.tsv", "\t".join(header), *rows))
    assert [(p.a, p.b, p.label) for p in pairs] == [
        (f"left {i}", f"right {i}", i % 2) for i in range(4)
    ]


def test_a_row_of_unknown_names_is_a_header_and_one_of_sentences_is_none(tmp_path):
    rows = [f"the left {i}\tthe right {i}" for i in range(4)]
    assert read_groups(write(tmp_path / "n.tsv", "utterance\treply", *rows)) == [
        [f"the left {i}", f"the right {i}"] for i in range(4)
    ]
    assert len(read_groups(write(tmp_path / "s.tsv", *rows))) == 4
    words = [f"{a}\t{b}" for a, b in (("cat", "kitten"), ("dog", "puppy"), ("cow", "calf"))]
    assert len(read_groups(write(tmp_path / "w.tsv", *words))) == 3
    labelled = [f"{row}\t{i % 2}" for i, row in enumerate(rows)]
    file = read_file(write(tmp_path / "l.tsv", "first\tsecond\tgold", *labelled))
    assert [pair.label for pair in file.labelled()] == [0, 1, 0, 1]
    assert file.problems.rows == []
    assert "first and second with gold" in file.told()


def test_a_name_that_two_columns_have_says_nothing(tmp_path):
    path = write(tmp_path / "t.tsv", "sentence1\tsentence1\tsentence2\tlabel", "a\tb\tc\t1")
    for reading in (Reading(), Reading(columns=["sentence1", "sentence2", "label"])):
        with pytest.raises(ValueError, match="has 2 columns named sentence1: say their numbers"):
            read_groups(path, reading)
    assert read_groups(path, Reading(columns=["2", "3", "4"])) == [["b", "c"]]


@pytest.mark.parametrize("indent", [None, 1])
def test_an_array_of_objects_says_how_to_write_lines(tmp_path, indent):
    path = tmp_path / "t.json"
    path.write_text(json.dumps([{"sentence1": "a", "sentence2": "b"}] * 3, indent=indent))
    with pytest.raises(ValueError, match=r"line 1: an array of objects: write one a line"):
        read_groups(path)


def test_pairs_of_one_label_only_are_told(tmp_path):
    rows = [f"left {i}\tright {i}\t" for i in range(9)]
    for labels, alike in (("000000000", True), ("000010000", False)):
        lines = [row + label for row, label in zip(rows, labels, strict=True)]
        write(tmp_path / "t.tsv", *lines)
        data = LabelledPairs(root=str(tmp_path / "t.tsv"), batch_size=2)
        data.setup("fit")
        told = [line for line in data.describe() if "same label" in line]
        assert (
            told == ["note: all 9 pairs have the same label, from which nothing is learnt"] * alike
        )


def test_columns_that_cannot_be_told_are_refused_with_what_there_is(tmp_path):
    many = write(tmp_path / "m.tsv", "id\tFrage\tAntwort\tWert", "1\ta b\tc d\t1")
    with pytest.raises(ValueError, match=r"It has id, Frage, Antwort, Wert; taken are .*columns"):
        read_groups(many)
    assert read_groups(many, Reading(columns=["Frage", "Antwort", "Wert"])) == [["a b", "c d"]]
    assert read_groups(many, Reading(columns=["frage", "antwort"])) == [["a b", "c d"]]
    with pytest.raises(
        ValueError, match=r"no column 'Fragen' \(--data\.columns\); it has id, Frag"
    ):
        read_groups(many, Reading(columns=["Fragen", "Antwort"]))
    ids = write(tmp_path / "i.tsv", "1\t11\t1", "2\t22\t0")
    with pytest.raises(ValueError, match="which columns are the sentences"):
        read_groups(ids)
    bare = write(tmp_path / "b.tsv", "7\ta b\tc d\t1", "8\te f\tg h\t0")
    assert read_groups(bare, Reading(columns=["2", "3", "4"])) == [["a b", "c d"]]
    two = write(tmp_path / "l.tsv", "sentence1\tsentence2\tlabel\tscore", "a\tb\t1\t5")
    with pytest.raises(ValueError, match="which column is the label"):
        read_groups(two)
    unlabelled = write(tmp_path / "u.tsv", "index\tsentence1\tsentence2", "0\ta\tb")
    with pytest.raises(ValueError, match="which column is the label"):
        read_groups(unlabelled)


def test_two_columns_are_similar_pairs(tmp_path):
    assert read_groups(write(tmp_path / "t.tsv", "a b\tc", "d\te")) == [["a b", "c"], ["d", "e"]]
    named = write(tmp_path / "n.csv", "sentence1,sentence2", "a b,c")
    assert read_groups(named) == [["a b", "c"]]
    triplets = write(tmp_path / "a.csv", "anchor,positive,negative", "a,b,c")
    assert read_groups(triplets) == [["a", "b"]]


def test_quoted_cells_are_read_as_csv_writes_them(tmp_path):
    rows = [
        ("sentence1", "sentence2", "label"),
        ('he said "no", twice', "a\nbreak and\ta tab; a comma, too", "1"),
        ('"whole"', "plain", "1"),
    ]
    for name, options in {
        "comma.csv": {},
        "semicolon.csv": {"delimiter": ";"},
        "UPPER.TSV": {"delimiter": "\t"},
        "tabs.txt": {"delimiter": "\t"},
        "all.tsv": {"delimiter": "\t", "quoting": csv.QUOTE_ALL},
    }.items():
        with (tmp_path / name).open("w", newline="", encoding="utf-8-sig") as file:
            csv.writer(file, **options).writerows(rows)
        assert read_groups(tmp_path / name) == [list(rows[1][:2]), list(rows[2][:2])], name
    assert table_of(tmp_path / "comma.csv").dialect == "commas, cells in quotes"
    packed = gzip.compress((tmp_path / "comma.csv").read_bytes())
    (tmp_path / "packed.csv.gz").write_bytes(packed)
    assert read_groups(tmp_path / "packed.csv.gz") == read_groups(tmp_path / "comma.csv")


def test_quotation_marks_of_sentences_stay_where_none_enclose_cells(tmp_path):
    raw = write(
        tmp_path / "t.tsv",
        "sentence1\tsentence2\tlabel",
        '"He" said\tb\t1',
        'c\t" d\t1',
        "e\tf\t0",
    )
    assert table_of(raw).dialect == "tabs, no quotes"
    assert read_groups(raw) == [['"He" said', "b"], ["c", '" d']]
    broken = write(tmp_path / "b.csv", "sentence1,sentence2", *['"a, b","c"'] * 20, '"a, b" c,d')
    with pytest.raises(ValueError, match=r"b\.csv, line 22: a quotation mark"):
        read_groups(broken)


def test_a_row_with_more_cells_is_told_and_not_shifted(tmp_path):
    path = write(tmp_path / "t.csv", "sentence1,sentence2,label", "a,b,1", "c,d,e,1", "f,g,1")
    with pytest.warns(UserWarning, match=r"line 3: 4 columns, need 3"):
        assert read_groups(path) == [["a", "b"], ["f", "g"]]


def test_a_cell_without_end_names_its_line(tmp_path):
    path = write(tmp_path / "t.tsv", "sentence1\tsentence2\tlabel", "a\tb\t1", "x" * 200_000)
    with pytest.raises(ValueError, match=r"t\.tsv, line 3: a cell of more than 131,072 char"):
        read_groups(path)


@pytest.mark.parametrize(
    ("labels", "told", "values"),
    [
        (["yes", "No", "TRUE", "false"], "yes or no", [1, 0, 1, 0]),
        (["1.0", "0.0", "1"], "yes or no", [1, 0, 1]),
        (["是", "否"], "yes or no", [1, 0]),
        (["Entailment", "neutral", "CONTRADICTION"], "NLI", [2, 1, 0]),
        (["4,5", "0,5", "5"], "grades of 0 to 5, similar from 4", [4.5, 0.5, 5]),
        (["0.9", "0.25", "1"], "grades of 0 to 1, similar from 0.8", [4.5, 1.25, 5]),
    ],
)
def test_labels_of_every_spelling(tmp_path, labels, told, values):
    kind = kind_of(labels, tmp_path)
    assert kind.told == told
    assert [kind.value(label) for label in labels] == pytest.approx(values)


def test_a_scale_is_asked_for_checked_and_set(tmp_path):
    hundred = [str(i) for i in range(101)]
    with pytest.raises(ValueError, match=r"grades from 0 to 100, of which scale\? .*'\[0, 100\]'"):
        kind_of(hundred, tmp_path)
    with pytest.raises(ValueError, match=r"outside of --data\.scale=\[0, 10\]"):
        kind_of(hundred, tmp_path, scale=[0, 10])
    kind = kind_of(hundred, tmp_path, scale=[0, 100])
    assert [kind.value(label) for label in ("0", "80", "100")] == [0, 4, 5]
    assert kind.told == "grades of 0 to 100, similar from 80"
    with pytest.raises(ValueError, match=r"labels 0, 1, 2: grades, or NLI\?"):
        kind_of(["0", "1", "2"], tmp_path)
    nli = kind_of(["0", "1", "2", "-1"], tmp_path, names=["entailment", "neutral", "contradiction"])
    assert [nli.value(label) for label in ("0", "1", "2", "-1")] == [2, 1, 0, None]
    for cosines in (["-0.2", "0.9"], ["-1", "1"]):
        with pytest.raises(ValueError, match=r"of which scale\? .* '\[-1, 1\]' \(lowest"):
            kind_of(cosines, tmp_path)
    with pytest.raises(ValueError, match=r"grades from 0\.1 to 3, of which scale"):
        kind_of(["0.1", "3"], tmp_path)
    assert kind_of(["1", "3"], tmp_path, ranked=True).value("2") == 2.5
    with pytest.raises(ValueError, match="labels 'gut', 'schlecht' are of no kind"):
        kind_of(["gut", "schlecht"], tmp_path)
    with pytest.raises(ValueError, match="entailment and not_entailment"):
        kind_of(["entailment", "not_entailment"], tmp_path)
    with pytest.raises(ValueError, match=r"--data\.scale=\[5, 0\]: give the lowest"):
        SimilarGroups(scale=[5, 0])
    with pytest.raises(ValueError, match=r"--data\.labels=\['a', 'b'\]: give what 0 and 1 mean"):
        SimilarGroups(labels=["a", "b"])


def test_jsonl_of_pairs_lists_and_sets(tmp_path):
    forms = [
        {"anchor": "a", "positive": "b", "negative": "c"},
        ["d", "e", "f"],
        {"set": ["g", "h"]},
        {"text": "i", "synonyms": ["j"]},
    ]
    path = write(tmp_path / "m.jsonl", *map(json.dumps, forms))
    found = sorted(read_groups(path))
    assert found == [["a", "b"], ["d", "e", "f"], ["g", "h"], ["i", "j"]]
    labelled = [{"sentence1": "a", "sentence2": "b", "label": x} for x in (1, "0", True)]
    path = write(tmp_path / "l.json", *map(json.dumps, labelled))
    assert [p.label for p in read_labelled(path)] == [1, 0, 1]
    deep = write(tmp_path / "d.jsonl", "[" * 100_000, '["a", "b"]', '["\\ud800", "b"]')
    with pytest.warns(UserWarning, match="left out 2 of 3 rows: .*line 1: no JSON .*too deeply"):
        assert read_groups(deep) == [["a", "b"]]


def test_single_lines_are_no_pairs(tmp_path):
    path = write(tmp_path / "t.txt", "a sentence", "another, with a comma")
    with pytest.raises(ValueError, match=r"t\.txt holds single lines, and no pairs: taken are"):
        read_groups(path)
    assert read_file(path, single=True).sentences() == ["a sentence", "another, with a comma"]
    (tmp_path / "t.xlsx").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"t\.xlsx is no text: save it as \.csv"):
        read_groups(tmp_path / "t.xlsx")


# Folders


def folder(tmp_path, **files):
    for name, (count, start) in files.items():
        rows = (f"left {start + i}\tright {start + i}\t{i % 2}" for i in range(count))
        write(tmp_path / f"{name}.tsv", "sentence1\tsentence2\tlabel", *rows)
    return str(tmp_path)


def test_a_root_alone_is_read_and_told(tmp_path):
    root = folder(tmp_path, one=(40, 0), two=(20, 100))
    write(tmp_path / "notes.md", "nothing")
    data = SimilarGroups(root=root)
    data.setup()
    assert sum(len(data.groups(split)) for split in ("train", "val", "test")) == 30
    told = data.describe()
    assert told[0] == f"sentences of {root}"
    assert "left out: notes.md (no files of sentences)" in told
    assert any(line.startswith("one.tsv: tabs, no quotes; sentence1 and") for line in told)
    one = SimilarGroups(root=f"{root}/one.tsv", val_share=0, test_share=0)
    one.setup()
    assert len(one.groups("train")) == 20
    same = SimilarGroups(root=root, files="one.tsv", val_share=0, test_share=0)
    same.setup()
    assert same.groups("train") == one.groups("train")
    assert "embedded PAWS-X pairs" in SimilarGroups().describe()[0]
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no file of sentences to train on in .*empty"):
        SimilarGroups(root=str(tmp_path / "empty")).setup()
    (tmp_path / "empty" / "test.tsv").write_text("a\tb\t1\n")
    with pytest.raises(
        FileNotFoundError, match=r"to train on in .*test\.tsv is of test, by its name"
    ):
        SimilarGroups(root=str(tmp_path / "empty")).setup()
    with pytest.raises(FileNotFoundError, match="no such file or folder: nowhere"):
        SimilarGroups(root="nowhere").setup()


def test_files_of_the_splits_are_theirs(tmp_path):
    root = folder(tmp_path, train=(60, 0), dev=(20, 50), test=(20, 200))
    data = SimilarGroups(root=root)
    data.setup()
    assert [len(data.groups(split)) for split in ("train", "val", "test")] == [25, 10, 10]
    assert len(data.labelled("val")["dev"]) == len(data.labelled("test")["test"]) == 20
    assert "left out: 5 training items with sentences to evaluate on" in data.describe()
    pairs = LabelledPairs(root=root)
    pairs.setup()
    assert "train: 50 labelled pairs" in pairs.describe()
    lines = Sentences(root=root)
    lines.setup()
    assert "train: 100 sentences" in lines.describe()
    assert "val: 40 sentences" in lines.describe()
    write(tmp_path / "test.tsv", "index\tsentence1\tsentence2", "0\tx\ty")  # as GLUE's
    kept_back = SimilarGroups(root=root)
    kept_back.setup()
    assert "left out: test.tsv (its pairs have no labels)" in kept_back.describe()


def test_grades_of_a_hundred_are_trained_on_from_eighty(tmp_path):
    rows = (f"left {i}\tright {i}\t{i}" for i in range(101))
    write(tmp_path / "t.tsv", "sentence1\tsentence2\tscore", *rows)
    data = SimilarGroups(root=str(tmp_path), scale=[0, 100], val_share=0, test_share=0)
    data.setup()
    assert [group[0] for group in data.groups("train")] == [f"left {i}" for i in range(80, 101)]


_GLUE = {
    "MRPC": (
        "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String",
        ["{label}", "70{i}", "80{i}", "{a}", "{b}"],
        ["0", "1"],
    ),
    "QQP": (
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
        ["{i}", "2{i}", "3{i}", "{a}", "{b}", "{label}"],
        ["0", "1"],
    ),
    "STS-B": (
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
        ["{i}", "main", "MSRvid", "2012", "4", "none", "none", "{a}", "{b}", "{label}"],
        ["0.000", "2.600", "5.000"],
    ),
    "SNLI": (
        "index\tcaptionID\tpairID\tsentence1_binary_parse\tsentence2_binary_parse\t"
        "sentence1_parse\tsentence2_parse\tsentence1\tsentence2\tlabel1\tgold_label",
        ["{i}", "c", "p", "( a )", "( b )", "(A)", "(B)", "{a}", "{b}", "neutral", "{label}"],
        ["contradiction", "neutral", "entailment"],
    ),
    "MNLI": (
        "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\t"
        "sentence1_parse\tsentence2_parse\tsentence1\tsentence2\tlabel1\tgold_label",
        ["{i}", "1", "1n", "f", "( a )", "( b )", "(A)", "(B)", "{a}", "{b}", "neutral", "{label}"],
        ["contradiction", "neutral", "entailment"],
    ),
    "QNLI": (
        "index\tquestion\tsentence\tlabel",
        ["{i}", "{a}", "{b}", "{label}"],
        ["not_entailment", "entailment"],
    ),
    "RTE": (
        "index\tsentence1\tsentence2\tlabel",
        ["{i}", "{a}", "{b}", "{label}"],
        ["not_entailment", "entailment"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", _GLUE)
def test_files_of_glue_are_read_as_they_are(tmp_path, name):
    header, cells, labels = _GLUE[name]
    # Quotation marks as GLUE has them: a cell begins with one, another ends with one.
    texts = [
        (f'"A {i} begins', f"b {i}") if i % 3 else (f'a "{i}" "', f'b {i} ends"') for i in range(60)
    ]
    rows = [
        "\t".join(cells).format(i=i, a=a, b=b, label=labels[i % len(labels)])
        for i, (a, b) in enumerate(texts)
    ]
    file = write(tmp_path / f"{name}.tsv", header, *rows)
    options = Reading(labels=labels) if "not_entailment" in labels else Reading()
    found = read_file(file, options).labelled()
    assert [(pair.a, pair.b) for pair in found] == texts
    expected = [float(i) if name != "STS-B" else float(label) for i, label in enumerate(labels)]
    assert [pair.label for pair in found] == [expected[i % len(labels)] for i in range(60)]
    if "not_entailment" in labels:
        with pytest.raises(ValueError, match=r"--data.labels '\[not_entailment, entailment\]'"):
            read_file(file).labelled()


def test_two_lone_marks_are_no_cell_over_two_lines(tmp_path):
    file = write(
        tmp_path / "sts.tsv",
        "sentence1\tsentence2\tscore",
        '"A mark\tb\t5.0',
        'another"\tc\t0.0',
        "d\te\t4.0",
    )
    assert [(p.a, p.b) for p in read_labelled(file)] == [
        ('"A mark', "b"),
        ('another"', "c"),
        ("d", "e"),
    ]


def test_the_sts_benchmark_without_a_header(tmp_path):
    rows = [f'main\tMSRvid\t2012\t{i:04d}\t{i % 6}.0\t"A {i}\tb {i}' for i in range(20)]
    rows[1::4] = [f"{row}\tsource\tsource" for row in rows[1::4]]
    file = write(tmp_path / "sts-train.csv", *rows)
    found = read_file(file, Reading(columns=["6", "7", "5"])).labelled()
    assert [(p.a, p.b, p.label) for p in found] == [(f'"A {i}', f"b {i}", i % 6) for i in range(20)]
    with pytest.raises(ValueError, match="which columns are the sentences"):
        read_file(file)


@pytest.mark.parametrize("name", ["test.csv", "test.json"])
@pytest.mark.parametrize("hidden", [{"label": -1}, {"label": None}, {}])
def test_hidden_labels_of_held_out_files_are_none(tmp_path, name, hidden):
    rows = [{"sentence1": f"a {i}", "sentence2": f"b {i}", **hidden} for i in range(5)]
    lines = [json.dumps(row) for row in rows]
    if name.endswith("csv"):
        cells = [["" if cell is None else str(cell) for cell in row.values()] for row in rows]
        lines = [",".join(rows[0]), *map(",".join, cells)]
    file = write(tmp_path / name, *lines)
    found = read_file(file, unlabelled=True)
    assert not found.has_labels
    assert [(a, b) for _, a, b, _ in found.pairs] == [(f"a {i}", f"b {i}") for i in range(5)]
    if hidden == {"label": -1}:
        assert read_file(file).has_labels
    train = [f"x {i},y {i},{i % 2}" for i in range(200)]
    write(tmp_path / "train.csv", "sentence1,sentence2,label", *train)
    for data in (LabelledPairs(root=str(tmp_path)), SimilarGroups(root=str(tmp_path))):
        data.setup()
        assert f"left out: {name} (its pairs have no labels)" in data.describe()


@pytest.mark.parametrize("name", ["train.csv", "train.jsonl"])
def test_hidden_labels_to_train_on_are_refused(tmp_path, name):
    row = {"id": 1, "sentence1": "a", "sentence2": "b"}
    lines = [json.dumps(row)] if name.endswith("jsonl") else [",".join(row), "1,a,b"]
    with pytest.raises(ValueError, match="which column is the label"):
        read_file(write(tmp_path / name, *lines))


def test_a_long_row_of_short_cells_is_read(tmp_path):
    names = ",".join(f"column{i}" for i in range(20_000))
    cells = ",".join("x" for _ in range(20_000))
    rows = [f"a {i},b {i},1,{cells}" for i in range(3)]
    file = write(tmp_path / "wide.csv", f"sentence1,sentence2,label,{names}", *rows)
    assert read_groups(file) == [[f"a {i}", f"b {i}"] for i in range(3)]


@pytest.mark.parametrize("mark", ["sep=;", '"sep=;"', "SEP=;"])
def test_the_line_that_tells_excel_the_delimiter_is_no_row(tmp_path, mark):
    rows = [f"a {i};b {i};{i % 2}" for i in range(10)]
    file = write(tmp_path / "a.csv", mark, "sentence1;sentence2;label", *rows, "a;b")
    found = read_file(file)
    assert [pair[:3] for pair in found.pairs][:2] == [(3, "a 0", "b 0"), (4, "a 1", "b 1")]
    assert found.problems.rows == [f"{file}, line 13: 2 columns, need 3"]


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize(("name", "delimiter"), [("a.tsv", "\t"), ("a.csv", ","), ("a.txt", "\t")])
def test_tables_of_old_macs_are_read(tmp_path, name, delimiter, quoting):
    with (tmp_path / name).open("w", newline="") as file:
        table = csv.writer(file, delimiter=delimiter, lineterminator="\r", quoting=quoting)
        table.writerow(["sentence1", "sentence2", "label"])
        table.writerows([f"one {i}", f"two {i}", i % 2] for i in range(20))
    found = [(pair.a, pair.b, pair.label) for pair in read_labelled(tmp_path / name)]
    assert found == [(f"one {i}", f"two {i}", i % 2) for i in range(20)]
