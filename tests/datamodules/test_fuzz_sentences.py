"""Any bytes under any name end in rows or in one ValueError that names the file."""

import gzip
import warnings

import pytest

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies
PIECES = ["a", "é", '"', "\t", ",", ";", "\r\n", "\n", "\0", "sentence1", "sentence2", "label", "1"]
PIECES += ["0.5", '{"text": "a", "synonyms": ["b"]}', "[", "\ufeff", "\u2028", "x" * 140_000]
CONTENT = st.lists(st.sampled_from(PIECES), max_size=30).map(lambda p: "".join(p).encode())
NAMES = ["a.tsv", "a.csv", "a.txt", "a.jsonl", "a.tsv.gz", "a.gz"]


@pytest.mark.slow
def test_readers_name_the_file_or_read_it(tmp_path):
    from zoo.data.sentences.files import SentenceFile, read_file
    from zoo.reading import decoded, read_bytes

    kinds = (SentenceFile.similar, SentenceFile.labelled, SentenceFile.sentences)
    readers = [
        lambda path, kind=kind: kind(read_file(path, single=kind is SentenceFile.sentences))
        for kind in kinds
    ]

    @hypothesis.settings(max_examples=100, deadline=None, database=None, derandomize=True)
    @hypothesis.given(
        st.one_of(CONTENT, st.binary(max_size=200)), st.sampled_from(NAMES), st.data()
    )
    def check(content, name, data):
        path = tmp_path / name
        packed = gzip.compress(content) if name.endswith(".gz") else content
        damaged = data.draw(st.booleans()) and name.endswith(".gz")
        path.write_bytes(packed[: len(packed) // 2] if damaged else packed)
        for read in (*readers, read_bytes):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    found = read(path)
                if read is read_bytes:
                    decoded(found, path)
            except ValueError as error:
                assert str(path) in str(error)  # noqa: PT017

    check()
