#!/usr/bin/env bash
# datatrove 0.10.1, the pairs that stage 2 of its MinHash writes (MinhashDedupBuckets, *.dups).
# One would guess: "document duplicate pairs" are the pairs of documents that share a band, so that
# similar pairs of a corpus, to train on or to count, can be read from there.
# True: of the documents of one band only neighbours in the order of their signatures are written,
# n - 1 of the n (n - 1) / 2 pairs. That is what stage 3 needs, which joins them to clusters and keeps
# one document of each; whoever wants pairs has to make all of a band again.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check \
    "datatrove==0.10.1" "spacy==3.8.14" "fsspec==2026.4.0" "numpy<3" "tokenizers==0.22.1" "xxhash==3.5.0" regex tldextract
cd "$work"
"$work/venv/bin/python" - <<'PY'
import struct
from importlib.metadata import version
from pathlib import Path

from datatrove.data import Document
from datatrove.pipeline.dedup import MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupBuckets

print("datatrove", version("datatrove"))
words = "the sea was calm and the boats came home before the night fell over the small old town".split()
text = " ".join(words)
documents = [Document(text=text, id=str(i)) for i in range(6)]
documents.append(Document(text=" ".join(f"other{i}" for i in range(20)), id="6"))
config = MinhashConfig(n_grams=3, num_buckets=4, hashes_per_bucket=4)
for _ in MinhashDedupSignature(output_folder="signatures", config=config, language="en").run(
    iter(documents), 0, 1
) or ():
    pass
per_band = []
for band in range(config.num_buckets):
    MinhashDedupBuckets(input_folder="signatures", output_folder="pairs", config=config).run(
        None, band, config.num_buckets
    )
for file in sorted(Path("pairs").glob("*.dups")):
    found = [(a, b) for _, a, _, b in struct.iter_unpack("<4I", file.read_bytes())]
    per_band.append(len(found))
    print(f"{file.name}: {found}")
print(f"6 equal documents: 15 pairs, of which each band has {per_band}")
raise SystemExit(0 if per_band == [5, 5, 5, 5] else f"another behaviour: {per_band}")
PY
