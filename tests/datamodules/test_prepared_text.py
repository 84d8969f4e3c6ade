"""Prepared text is the text that memory would hold: to the bit, in every split and window."""

import gzip
import json
import random
import resource
import signal

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from zoo.data import Text
from zoo.data.loader import EpochSampler
from zoo.data.text import corpus, language, pieces, prepare, store, vocabularies, writer
from zoo.data.text.prepare import prepare as prepare_text
from zoo.data.text.store import Store
from zoo.data.text.vocabularies import train_subwords
from zoo.data.text.vocabulary import Subwords, Vocabulary
from zoo.layers.seeds import mix

WORDS = ["the", "a", "of", "red", "Häuser", "天气", "river's", "walks", ",", ".", "\u3000"]


@pytest.fixture(autouse=True)
def _alone(monkeypatch, tmp_path):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(prepare, "cores", lambda: 1)
    for function in (corpus.mapped, corpus.parquet, corpus.load_dataset, pieces._vocabulary):
        function.cache_clear()


@pytest.fixture
def small(monkeypatch):
    """Pieces and shards of a few hundred bytes, and no text that is small."""
    monkeypatch.setattr(prepare, "_STEP", 300)
    monkeypatch.setattr(prepare, "_SMALL_STEP", 200)
    monkeypatch.setattr(vocabularies, "_STEP", 300)
    monkeypatch.setattr(writer, "_SHARD", 1000)
    monkeypatch.setattr(pieces, "_NEAR", 64)
    monkeypatch.setattr(language, "_SMALL", 0)


def some_text(lines=150, seed=0, end="\n"):
    draw = random.Random(seed)
    out = []
    for _ in range(lines):
        out.append(" ".join(draw.choices(WORDS, k=draw.randint(0, 12))))
        out += [" \t", ""][: draw.randint(0, 2)]
    return end.join(out)


def same(a, b):
    """Whether two data sets have the same windows in every split."""
    assert a.vocabulary == b.vocabulary
    for split in ("train", "val", "test"):
        one, two = a.split(split), b.split(split)
        assert len(one) == len(two)
        index = list(range(len(one)))
        for part, other in zip(one.__getitems__(index), two.__getitems__(index), strict=True):
            assert np.array_equal(part, other), split
        assert np.array_equal(*(np.concatenate(list(x.parts(1))) for x in (one, two)))
        assert a.symbols_per_byte(split) == b.symbols_per_byte(split)
    assert a.unigram() == pytest.approx(b.unigram(), rel=1e-12)


LEVELS = ("byte", "char", "word", "wordpunct")


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("documents", ["file", "paragraph", "line"])
def test_what_is_mapped_is_what_is_read(tmp_path, monkeypatch, small, level, documents):
    (tmp_path / "one.txt").write_bytes(("\ufeff" + some_text(end="\r\n")).encode())
    (tmp_path / "many").mkdir()
    for i in range(7):
        (tmp_path / "many" / f"{i}.txt").write_text(some_text(lines=9 * i, seed=i))
    for root, options in (
        ("one.txt", {"stride": 8}),
        ("many", {"align": 8}),
        ("many", {"limit": 40, "min_count": 3, "align": 4}),
    ):
        made = {"root": root, "level": level, "documents": documents, "sequence_length": 16}
        monkeypatch.setattr(language, "_SMALL", 2**24)
        memory = Text(**made, **options)
        assert memory.store is None
        memory.setup()
        monkeypatch.setattr(language, "_SMALL", 0)
        mapped = Text(**made, **options)
        assert mapped.store is not None
        same(memory, mapped)


def test_packed_files_and_files_of_splits(tmp_path, monkeypatch, small):
    zstandard = pytest.importorskip("zstandard")
    text = some_text().encode()
    (tmp_path / "a.txt").write_bytes(text)
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(text))
    frames = [zstandard.compress(part) for part in (text[:1000], text[1000:])]
    (tmp_path / "c.txt.zst").write_bytes(b"".join(frames))
    whole = Text(root="a.txt", sequence_length=16)
    for name in ("b.txt.gz", "c.txt.zst"):
        same(whole, Text(root=name, sequence_length=16))
    (tmp_path / "parts").mkdir()
    for number, split in enumerate(("train", "valid", "test")):
        (tmp_path / "parts" / f"x.{split}.txt").write_text(some_text(seed=number))
    mapped = Text(root="parts", sequence_length=16)
    assert mapped.store is not None
    mapped.vocabulary  # noqa: B018
    monkeypatch.setattr(language, "_SMALL", 2**24)
    same(Text(root="parts", sequence_length=16), mapped)


def tokenizers_of(text):
    """Tokenizers of every build: by bytes, by words, with a space before, without any parting."""
    kinds = {
        "bytes": (models.BPE(), pre_tokenizers.ByteLevel(add_prefix_space=True), None),
        "pieces": (
            models.WordPiece(unk_token="[UNK]"),
            pre_tokenizers.BertPreTokenizer(),
            normalizers.BertNormalizer(),
        ),
        "marks": (models.BPE(unk_token="[UNK]"), pre_tokenizers.Metaspace(), None),
        "unparted": (
            models.BPE(unk_token="[UNK]"),
            None,
            normalizers.Sequence([normalizers.Prepend("_"), normalizers.Replace(" ", "_")]),
        ),
        "unigram": (models.Unigram(), pre_tokenizers.Metaspace(prepend_scheme="first"), None),
    }
    for name, (model, parted, normal) in kinds.items():
        tokenizer = Tokenizer(model)
        if parted is not None:
            tokenizer.pre_tokenizer = parted
        if normal is not None:
            tokenizer.normalizer = normal
        trainer = {"Unigram": trainers.UnigramTrainer, "WordPiece": trainers.WordPieceTrainer}
        more = {"unk_token": "[UNK]"} if name == "unigram" else {}
        kind = trainer.get(type(model).__name__, trainers.BpeTrainer)
        made = kind(vocab_size=400, special_tokens=["[UNK]"], show_progress=False, **more)
        lines = text.split("\n") if name == "unparted" else [text]
        tokenizer.train_from_iterator(lines, made)
        yield name, tokenizer


def test_subwords_of_pieces_are_those_of_the_whole_document(tmp_path, monkeypatch, small):
    text = some_text(150, end="\r\n") + "".join(random.Random(1).choices("今天气好不", k=1000))
    (tmp_path / "one.txt").write_bytes(text.encode())
    monkeypatch.setattr(Subwords, "_STEP", 100)
    monkeypatch.setattr(Subwords, "AROUND", 60)
    normal = text.replace("\r\n", "\n")
    for name, tokenizer in tokenizers_of(normal):
        words = Subwords(tokenizer.to_str().encode())
        whole = tokenizer.encode(normal, add_special_tokens=False).ids
        assert words.encode(normal).tolist() == whole, name
        tokenizer.save(f"{name}.json")
        data = Text(root="one.txt", tokenizer=f"{name}.json", sequence_length=16)
        data.setup()
        assert data.store is not None
        assert len(data.vocabulary) == len(words) == max(tokenizer.get_vocab().values()) + 2
        bounds = iter(corpus.Corpus("one.txt", "text", True, tmp_path).whole)
        for split, part in zip(("train", "val", "test"), bounds, strict=True):
            own = text.encode()[part.begin : part.end].decode().replace("\r\n", "\n")
            ids = tokenizer.encode(own, add_special_tokens=False).ids
            assert np.concatenate(list(data.split(split).parts())).tolist() == ids, (name, split)


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_subwords_made_of_a_corpus_say_all_of_it(tmp_path, small, kind):
    text = some_text(300) + "\x01\u2028 never seen: \U0001f600"
    (tmp_path / "one.txt").write_text(text)
    store = prepare_text("one.txt", tmp_path / "out", tokenizer=kind, vocabulary_size=400)
    words = store.vocabulary
    assert 257 < len(words) <= 400
    assert words.symbols[words.end] == "</s>"
    data = Text(root="out", sequence_length=16)
    data.setup()
    parts = [words.decode(np.concatenate(list(data.split(s).parts()))) for s in SPLITS]
    assert "".join(parts) == text
    typed = words.typing()
    assert "".join(typed(int(i)) for i in words.encode(text[:200])) == text[:200]
    assert Vocabulary.unpack(words.pack()) == words


SPLITS = ("train", "val", "test")


def contents(folder):
    return {f.name: f.read_bytes() for f in folder.iterdir() if f.suffix in (".bin", ".json")}


def test_what_was_stopped_goes_on_where_it_was(tmp_path, monkeypatch, small):
    (tmp_path / "a.txt").write_text(some_text(400))
    options = {"tokenizer": "bpe", "vocabulary_size": 320}
    prepare_text("a.txt", tmp_path / "whole", **options)
    (tmp_path / "tokenizer.json").write_bytes((tmp_path / "whole/vocabulary.json").read_bytes())
    real, seen = pieces.encode, []

    def stopping(piece, how):
        seen.append(piece.first)
        if len(seen) in (5, 6, 20):
            raise KeyboardInterrupt
        return real(piece, how)

    monkeypatch.setattr(prepare, "encode", stopping)
    for again in range(3):
        with pytest.raises(KeyboardInterrupt):
            prepare_text("a.txt", tmp_path / "parts", **options)
        with (tmp_path / "parts/train-00000.bin").open("ab") as file:
            file.write(b"of a piece that was not noted" * again)
    prepare_text("a.txt", tmp_path / "parts", **options)
    assert len(seen) == len(set(seen)) + 3
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    with pytest.raises(ValueError, match="parts holds text prepared with another vocabulary_size"):
        prepare_text("a.txt", tmp_path / "parts", tokenizer="bpe", vocabulary_size=333)


def test_what_was_killed_before_its_first_note_goes_on(tmp_path, monkeypatch, small):
    (tmp_path / "a.txt").write_text(some_text(400))
    prepare_text("a.txt", tmp_path / "whole", tokenizer="byte")

    def killed(self, *_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(writer.Writer, "__exit__", lambda *_: None)  # as SIGKILL leaves no time
        patch.setattr(writer.Writer, "add", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare_text("a.txt", tmp_path / "parts", tokenizer="byte")
    (tmp_path / "parts/train-00000.bin").write_bytes(b"of a piece that was not noted")
    prepare_text("a.txt", tmp_path / "parts", tokenizer="byte")
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_what_was_unpacked_of_another_text_is_not_read(tmp_path, small):
    for name in ("a", "b"):
        with gzip.open(tmp_path / f"{name}.txt.gz", "wb") as file:
            file.write(some_text(50).replace("e", name).encode())

    (tmp_path / "out").mkdir()
    corpus.Corpus(
        "a.txt.gz", "text", True, tmp_path / "out"
    )  # as a call leaves it that is killed soon
    assert list((tmp_path / "out").glob("unpacked-*"))
    prepare_text("b.txt.gz", tmp_path / "out", tokenizer="char")
    prepare_text("b.txt.gz", tmp_path / "new", tokenizer="char")
    assert contents(tmp_path / "out") == contents(tmp_path / "new")
    assert not list((tmp_path / "out").glob("unpacked-*"))


@pytest.mark.parametrize("content", ["[]", "{}", '{"made": 3}', '{"made": [1]}', "of others", ""])
@pytest.mark.parametrize("name", ["index.json", "progress.json"])
def test_a_folder_of_others_is_left_alone(tmp_path, small, name, content):
    (tmp_path / "a.txt").write_text(some_text(50))
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / name).write_text(content)
    with pytest.raises(ValueError, match=rf"{name} is damaged, or of no prepared text: choose ano"):
        prepare_text("a.txt", tmp_path / "theirs", tokenizer="char")
    assert [f.read_text() for f in (tmp_path / "theirs").iterdir()] == [content]


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path, monkeypatch, small):
    (tmp_path / "a.txt").write_text(some_text(600))
    prepare_text("a.txt", tmp_path / "whole", tokenizer="byte")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    monkeypatch.setattr(writer, "_SHARD", 2**20)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(OSError, match=r"File too large.*parts"):
            prepare_text("a.txt", tmp_path / "parts", tokenizer="byte")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    state = json.loads((tmp_path / "parts/progress.json").read_text())
    assert state["splits"]["train"]["symbols"] > 5000
    store = prepare_text("a.txt", tmp_path / "parts", tokenizer="byte")
    whole = Store(tmp_path / "whole")
    for split in SPLITS:
        places = np.arange(len(whole.tokens(split)))
        assert np.array_equal(store.tokens(split)[places], whole.tokens(split)[places])


def test_damage_is_one_line(tmp_path, small):
    (tmp_path / "a.txt").write_text(some_text())
    for name, tokenizer in (("out", "char"), ("other", "word")):
        prepare_text("a.txt", tmp_path / name, tokenizer=tokenizer)
    words = Store(tmp_path / "out").vocabulary
    with pytest.raises(ValueError, match=r"other was prepared with another tokenizer \(word, "):
        Text(root="other").take_vocabulary(words)
    Text(root="out").take_vocabulary(words)
    shard = tmp_path / "out/train-00001.bin"
    content = shard.read_bytes()
    shard.write_bytes(content[:-10])
    with pytest.raises(ValueError, match=r"out/train-00001\.bin is cut off or changed: it has"):
        Text(root="out").setup("fit")
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=r"train-00001\.bin is missing: remove the folder"):
        Text(root="out").setup("fit")
    shard.write_bytes(content)
    (tmp_path / "out/vocabulary.json").write_bytes(Vocabulary("byte").pack())
    with pytest.raises(ValueError, match="is not the tokenizer that the shards were made with"):
        Text(root="out").setup("fit")
    (tmp_path / "out/index.json").write_text('{"splits": 3}')
    with pytest.raises(ValueError, match=r"index\.json is damaged: remove the folder and prepare"):
        Text(root="out").setup("fit")
    with pytest.raises(ValueError, match="and no prepared text: choose a new folder"):
        prepare_text("a.txt", tmp_path, tokenizer="byte")
    with pytest.raises(FileNotFoundError, match=r"no such tokenizer: none\.json: give word,"):
        prepare_text("a.txt", tmp_path / "new", tokenizer="none.json")


INDEXES = {
    "a file elsewhere": lambda split: split["files"][0].__setitem__(0, "../train-00000.bin"),
    "a name of another kind": lambda split: split["files"][0].__setitem__(0, 1),
    "twice the files": lambda split: split.update(files=split["files"] * 2),
    "no documents": lambda split: split["files"].pop(),
    "a negative size": lambda split: split["files"][0].__setitem__(1, -2),
    "no bytes": lambda split: split.pop("bytes"),
    "bytes of another kind": lambda split: split.update(bytes="x"),
    "more symbols": lambda split: split.update(symbols=split["symbols"] + 1),
}


@pytest.mark.parametrize("change", INDEXES.values(), ids=INDEXES)
def test_an_index_of_anybody_is_read_as_its_writer_wrote_it_or_not_at_all(tmp_path, change):
    (tmp_path / "a.txt").write_text("the same text, " * 50)
    prepare_text("a.txt", tmp_path / "out", tokenizer="char", processes=1)
    file = tmp_path / "out/index.json"
    index = json.loads(file.read_text())
    change(index["splits"]["train"])
    file.write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"out/index\.json is damaged: remove the folder"):
        Store("out")


def _documents(*places):
    return lambda _: np.array(places, np.int64).tobytes()


FILES = {
    "a flipped bit": ("test-00000.bin", lambda old: bytes([old[0] ^ 1]) + old[1:], "checksum"),
    "decreasing": ("test.documents.bin", _documents(5, 0), "documents.bin is dam"),
    "beyond": ("test.documents.bin", _documents(0, 10**15), "documents.bin is dam"),
    "other counts": ("train.counts.npy", lambda old: old[:-8], "counts.npy is damaged"),
    "no vocabulary": ("vocabulary.json", lambda _: b"5", "no vocabulary that"),
    "nested": ("vocabulary.json", lambda _: b"[" * 10**5, "nested too deeply"),
    "many": ("vocabulary.json", lambda _: b'["number", 1000000000000]', "no vocabulary that"),
    "odd": ("vocabulary.json", lambda _: b'["char", "</s>", "<unk>", [1]]', "no vocabulary that"),
}


@pytest.mark.parametrize(("name", "change", "said"), FILES.values(), ids=FILES)
def test_a_changed_file_of_a_prepared_text_is_named(tmp_path, name, change, said):
    (tmp_path / "a.txt").write_text("the same text, " * 50)
    prepare_text("a.txt", tmp_path / "out", tokenizer="char", processes=1)
    file = tmp_path / "out" / name
    file.write_bytes(change(file.read_bytes()))
    data = Text(root="out", sequence_length=8)
    with pytest.raises(ValueError, match=rf"out/{name.split('.')[0]}.*{said}"):
        data.unigram()


def test_a_prepared_text_without_its_vocabulary_is_no_numbers(tmp_path):
    (tmp_path / "a.txt").write_text("the same text, " * 50)
    prepare_text("a.txt", tmp_path / "out", tokenizer="char", processes=1)
    (tmp_path / "out/vocabulary.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no such file: out/vocabulary\.json"):
        Text(root="out").setup("fit")


def test_an_option_without_effect_is_told(tmp_path):
    (tmp_path / "a.txt").write_text("the same text, " * 50)
    prepare_text("a.txt", tmp_path / "out", tokenizer="char", processes=1)
    given = {"documents": "line", "vocabulary_size": 9, "tokenizer": "char", "min_count": 1}
    data = Text(root="out", sequence_length=8, **given)
    data.setup()
    assert data.describe()[-2:] == [
        "--data.documents=line has no effect: out was prepared with 'file'",
        "--data.vocabulary_size=9 has no effect: out was prepared with None",
    ]


def test_the_symbols_of_a_tokenizer_are_no_level_to_set(tmp_path):
    (tmp_path / "a.txt").write_text("the same text, " * 50)
    words = train_subwords("bpe", 300, ["the same text"])
    with pytest.raises(ValueError, match="of level token: prepare the text with zoo prepare text"):
        Text(root="a.txt").take_vocabulary(words)


def test_a_number_beyond_the_vocabulary_names_its_shard(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("the same text, " * 50)
    prepare_text("a.txt", tmp_path / "out", tokenizer="char", processes=1)
    shard = tmp_path / "out/train-00000.bin"
    shard.write_bytes(b"\xff\xff" + shard.read_bytes()[2:])
    monkeypatch.setattr(store, "_CHECKED", 0)  # as one that is too large to be compared
    data = Text(root="out", sequence_length=8)
    with pytest.raises(ValueError, match=r"train-00000\.bin holds the number 65535, and the voc"):
        data.split("train").__getitems__([0])


def test_numbers_of_nano_gpt_are_read_as_they_are(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "gpt").mkdir()
    numbers = {split: rng.integers(0, 500, 3000).astype(np.uint16) for split in ("train", "val")}
    numbers["train"][7] = 500
    for split, values in numbers.items():
        values.tofile(tmp_path / "gpt" / f"{split}.bin")
    data = Text(root="gpt", sequence_length=64, batch_size=4)
    data.setup()
    assert len(data.vocabulary) == 501
    assert data.symbols_per_byte("val") is None
    for split, there in (("train", "train"), ("val", "val"), ("test", "val")):
        windows = data.split(split).__getitems__([3, 1])
        for row, first in enumerate((192, 64)):
            expected = numbers[there][first : first + 65]
            assert windows.tokens[row].tolist() == expected[:-1].tolist()
            assert windows.targets[row].tolist() == expected[1:].tolist()
    words = Vocabulary.unpack(data.vocabulary.pack())
    assert words == data.vocabulary
    assert words.decode(words.encode("3 1 4")) == "3 1 4"
    small = train_subwords("bpe", 400, ["some text"])
    (tmp_path / "small.json").write_bytes(small.pack())
    with pytest.raises(ValueError, match=r"small\.json has \d+ symbols, and gpt numbers to 500"):
        Text(root="gpt", tokenizer="small.json").setup("fit")
    (tmp_path / "gpt/val.bin").write_bytes(b"odd")
    with pytest.raises(ValueError, match=r"val\.bin is cut off"):
        Text(root="gpt").setup("fit")


def test_rows_of_text_are_documents(tmp_path, small):
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet")
    texts = [text for i in range(90) if (text := some_text(i % 5, seed=i))]
    lines = "".join(json.dumps({"n": 1, "body": text}) + "\n" for text in texts)
    (tmp_path / "a.jsonl").write_text(lines)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    table = pyarrow.table({"body": [*texts, None, ""]})
    pyarrow.parquet.write_table(table, "c.parquet", row_group_size=7)
    named = tmp_path / "named"
    named.mkdir()
    for split in ("train", "validation", "test"):
        for part in (0, 1):
            rows = pyarrow.table({"text": [f"{split} {part}"] * 3})
            pyarrow.parquet.write_table(rows, named / f"{split}-0000{part}-of-00002.parquet")
    for root in ("a.jsonl", "b.jsonl.gz", "c.parquet"):
        data = Text(root=root, column="body", sequence_length=16, level="byte")
        data.setup()
        found = []
        for split in SPLITS:
            windows = data.split(split)
            for start, stop in zip(windows.starts, windows.stops, strict=True):
                numbers = windows.symbols[np.arange(start, stop)].tolist()
                assert (numbers[-1] == 256) == (stop != windows.stops[-1])
                found.append(data.vocabulary.decode(numbers))
        assert found == texts, root
        with pytest.raises(ValueError, match=rf"{root}.*no text in the column 'text'.*body"):
            Text(root=root, level="byte").setup()
    data = Text(root="named", sequence_length=4, level="byte")
    data.setup()
    assert [len(data.split(split).starts) for split in SPLITS] == [6, 6, 6]
    assert data.vocabulary.decode(data.split("val").symbols[np.arange(12)]) == "validation 0"
    (tmp_path / "d.jsonl").write_text('{"text": "good"}\n' * 40 + '{"text": \n')
    with pytest.raises(ValueError, match=r"d\.jsonl, line 41: Expecting value"):
        Text(root="d.jsonl", level="char").setup()
    (tmp_path / "e.parquet").write_bytes((tmp_path / "c.parquet").read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"e\.parquet is cut off, damaged or not Parquet"):
        Text(root="e.parquet").setup()
    whole = bytearray((tmp_path / "c.parquet").read_bytes())
    whole[20:60] = b"\xff" * 40
    (tmp_path / "f.parquet").write_bytes(whole)
    with pytest.raises(ValueError, match=r"f\.parquet is cut off, damaged or not Parquet"):
        Text(root="f.parquet", column="body").setup()


def test_packed_files_that_are_cut_off_are_named(tmp_path, small):
    zstandard = pytest.importorskip("zstandard")
    for name, packed in (("a.txt.zst", zstandard.compress), ("b.txt.gz", gzip.compress)):
        (tmp_path / name).write_bytes(packed(some_text().encode())[:-40])
        with pytest.raises(ValueError, match=rf"{name} is cut off or not (zstandard|gzip)"):
            Text(root=name).setup()
    lines = b"".join(b"line %d\n" % i for i in range(400)) + b"caf\xe9\n" + b"end\n" * 400
    (tmp_path / "c.txt").write_bytes(lines)
    with pytest.raises(ValueError, match=r"c\.txt, line 401: not UTF-8 \(byte 0xe9\)"):
        Text(root="c.txt").setup()


def documents_of(data, split):
    windows = data.split(split)
    pairs = zip(windows.starts, windows.stops, strict=True)
    rows = (windows.symbols[np.arange(*pair)] for pair in pairs)
    return [data.vocabulary.decode(row.tolist()) for row in rows]


def test_data_sets_are_read_saved_or_streamed(tmp_path, small):
    datasets = pytest.importorskip("datasets")
    texts = [f"{i} {text}" for i in range(300) if (text := some_text(i % 5, seed=i))]
    rows = datasets.Dataset.from_dict({"text": texts})
    rows.save_to_disk("one", num_shards=3)
    three = {"train": rows, "validation": rows.select(range(9)), "test": rows.select(range(9, 30))}
    datasets.DatasetDict(three).save_to_disk("three")
    (tmp_path / "local").mkdir()
    rows.to_json("local/data.jsonl")
    one, dict_, streamed = (
        Text(root=root, level="byte", sequence_length=16) for root in ("one", "three", "hf:local")
    )
    assert [t for s in SPLITS for t in documents_of(one, s)] == texts
    assert [documents_of(dict_, s) for s in SPLITS] == [texts, texts[:9], texts[9:30]]
    parts = [documents_of(streamed, split) for split in SPLITS]
    assert sorted(t for part in parts for t in part) == sorted(texts)
    assert [len(part) > 5 for part in parts] == [True] * 3
    store = prepare_text("hf:local", tmp_path / "bpe", tokenizer="bpe", vocabulary_size=300)
    assert store.index["splits"]["train"]["documents"] == len(parts[0])
    with pytest.raises(ValueError, match=r"three.*no text in the column 'body'.*text"):
        Text(root="three", column="body", level="byte").setup()
    with pytest.raises((ValueError, OSError), match="nowhere"):
        Text(root="hf:nowhere", level="byte").setup()


def test_more_files_than_a_process_may_open(tmp_path, small):
    (tmp_path / "many").mkdir()
    for i in range(400):
        (tmp_path / "many" / f"{i:03}.txt").write_text(f"file {i}\n")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, before[1]))
    try:
        store = prepare_text("many", tmp_path / "out", tokenizer="byte")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert [store.index["splits"][split]["documents"] for split in SPLITS] == [
        362,
        20,
        20,
    ]  # two are cut


def test_an_order_is_the_one_that_it_was_with_numbers_of_64_bits():
    sampler = EpochSampler(100_003, seed=3)
    sampler.set_epoch(2)
    generator = torch.Generator().manual_seed(mix(3, 2))
    assert sampler.order().tolist() == torch.randperm(100_003, generator=generator).tolist()


@pytest.mark.parametrize("tokenizer", ["byte", "char", "bpe"])
def test_blanks_alone_are_no_text(tmp_path, tokenizer):
    (tmp_path / "blank.txt").write_text(" \n\t\n" * 500)
    with pytest.raises(ValueError, match="nothing but spaces and ends of lines"):
        prepare_text("blank.txt", tmp_path / "out", tokenizer=tokenizer, vocabulary_size=300)
    assert not (tmp_path / "out" / "index.json").exists()
    (tmp_path / "tail.txt").write_text("some text of a line\n" * 400 + "\n" * 1000)
    prepare_text("tail.txt", tmp_path / "tail", tokenizer=tokenizer, vocabulary_size=300)
    data = Text(root="tail", sequence_length=8)
    assert len(data.split("train"))
    with pytest.raises(ValueError, match="the val split of tail holds nothing but spaces"):
        data.split("val")


@pytest.mark.parametrize("refused", [b"", b"\n \n", b"some text\n" * 90 + b"caf\xe9"])
def test_a_text_that_was_refused_can_be_mended(tmp_path, small, refused):
    (tmp_path / "a.txt").write_bytes(refused)
    with pytest.raises(ValueError, match=r"empty|nothing but|not UTF-8"):
        prepare_text("a.txt", tmp_path / "out", tokenizer="char")
    (tmp_path / "a.txt").write_text(some_text(50))
    prepare_text("a.txt", tmp_path / "out", tokenizer="char")
    prepare_text("a.txt", tmp_path / "new", tokenizer="char")
    assert contents(tmp_path / "out") == contents(tmp_path / "new")
