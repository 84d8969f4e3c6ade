#!/usr/bin/env bash
# tokenizers 0.23.3, byte-level BPE trained on a corpus of few symbols.
# One would guess: a byte-level tokenizer has no unknown symbols, so that decode(encode(text)) is text
# whatever it was trained on; GPT-2's is built of the same parts.
# True: the alphabet is that of the corpus. A byte that the corpus does not have is dropped by encode: no
# token, no unknown token, no error. Letters vanish out of words, and a likelihood per token leaves them
# out. Only initial_alphabet=ByteLevel.alphabet() of the trainer brings the 256 bytes in.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "tokenizers==0.23.3"
"$work/venv/bin/python" - <<'PY'
import tokenizers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

print("tokenizers", tokenizers.__version__)
corpus = ["a rose is a rose is a rose"] * 20
text = "a prose is 2 roses, and more"
kept = {}
for name, alphabet in (("of the corpus", []), ("of 256 bytes", pre_tokenizers.ByteLevel.alphabet())):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(corpus, trainer)
    encoded = tokenizer.encode(text)
    back = tokenizer.decode(encoded.ids)
    of_corpus = tokenizer.decode(tokenizer.encode(corpus[0]).ids) == corpus[0]
    kept[name] = (of_corpus, back == text)
    print(f"alphabet {name}: the corpus comes back: {of_corpus}; {text!r} comes back as {back!r}")
    print("  tokens:", encoded.tokens)
expected = {"of the corpus": (True, False), "of 256 bytes": (True, True)}
raise SystemExit(0 if kept == expected else f"another behaviour: {kept}")
PY
