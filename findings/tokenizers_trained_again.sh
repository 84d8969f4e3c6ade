#!/usr/bin/env bash
# tokenizers 0.22.1, a vocabulary trained twice on the same lines with the same settings.
# One would guess: training is deterministic, so that a tokenizer need not be kept with a model, since
# the corpus and the settings give it back.
# True: BPE gives the same vocabulary each time; WordPiece gives the same pieces other numbers, and
# now and then other pieces, in every process, and has no seed to set. Nothing tells: a model has to
# carry its tokenizer, and a cache of token numbers the hash of the one that made it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "tokenizers==0.22.1"
cat > "$work/train.py" <<'PY'
import hashlib
import json
import random
import sys

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

draw = random.Random(0)
words = ["".join(draw.choices("abcdefghijklmnop", k=draw.randint(2, 8))) for _ in range(400)]
lines = [" ".join(draw.choices(words, k=12)) for _ in range(500)]
made = {
    "BPE": (models.BPE(), trainers.BpeTrainer(vocab_size=300, show_progress=False)),
    "WordPiece": (
        models.WordPiece(unk_token="[UNK]"),
        trainers.WordPieceTrainer(vocab_size=300, special_tokens=["[UNK]"], show_progress=False),
    ),
}
model, trainer = made[sys.argv[1]]
tokenizer = Tokenizer(model)
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer.train_from_iterator(lines, trainer)
vocabulary = tokenizer.get_vocab()
print(hashlib.sha256(json.dumps(vocabulary, sort_keys=True).encode()).hexdigest()[:12])
print(hashlib.sha256(json.dumps(sorted(vocabulary)).encode()).hexdigest()[:12])
PY
"$work/venv/bin/python" - "$work/train.py" <<'PY'
import subprocess
import sys

import tokenizers

print("tokenizers", tokenizers.__version__)
found = {}
for name in ("BPE", "WordPiece"):
    runs = [
        subprocess.run([sys.executable, sys.argv[1], name], capture_output=True, text=True, check=True).stdout.split()
        for _ in range(6)
    ]
    numbered, pieces = (len(set(column)) for column in zip(*runs))
    found[name] = numbered > 1
    print(f"{name}: 6 trainings, {numbered} different vocabularies, {pieces} different sets of pieces")
expected = {"BPE": False, "WordPiece": True}
raise SystemExit(0 if found == expected else f"another behaviour: {found}")
PY
