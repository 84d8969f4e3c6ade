#!/usr/bin/env bash
# sentencepiece 0.2.1 with byte_fallback=True.
# One would guess: pieces for the common, bytes for all else, so that decode(encode(text)) is text, and a
# language model on them can write lines.
# True: the normalizer runs before the bytes. By default a newline and a tab become a space, runs of
# spaces become one, full-width letters and circled numbers become plain ones. No sequence of pieces that
# encode gives has a newline, so that a model of verse or code cannot learn one, and perplexities a byte
# are divided by bytes that were never predicted. It takes normalization_rule_name="identity" and
# remove_extra_whitespaces=False, both.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "sentencepiece==0.2.1"
"$work/venv/bin/python" - <<'PY'
import io
import random

import sentencepiece

print("sentencepiece", sentencepiece.__version__)
draw = random.Random(0)
words = ["".join(draw.choices("abcdefghij", k=draw.randint(2, 6))) for _ in range(100)]
corpus = [" ".join(draw.choices(words, k=8)) for _ in range(300)]
texts = {
    "words": "abc def",
    "unseen letters": "xyz \u00e9",
    "newline": "abc\ndef",
    "tab": "abc\tdef",
    "indented": "abc    def",
    "full width": "\uff21\uff22\u2460",
}
settings = {
    "default": {},
    "identity": {"normalization_rule_name": "identity"},
    "identity, spaces kept": {"normalization_rule_name": "identity", "remove_extra_whitespaces": False},
}
lost = {}
for name, options in settings.items():
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus), model_writer=model, vocab_size=350, byte_fallback=True,
        hard_vocab_limit=False, minloglevel=2, **options,
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    back = {key: processor.decode(processor.encode(text)) for key, text in texts.items()}
    lost[name] = [key for key, text in texts.items() if back[key] != text]
    print(f"{name}: lost {lost[name]}", {key: (texts[key], back[key]) for key in lost[name]})
expected = {
    "default": ["newline", "tab", "indented", "full width"],
    "identity": ["indented"],
    "identity, spaces kept": [],
}
raise SystemExit(0 if lost == expected else f"another behaviour: {lost}")
PY
