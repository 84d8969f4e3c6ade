#!/usr/bin/env bash
# rouge-score 0.1.2, sentences in Chinese.
# One would guess: ROUGE of a sentence with itself is 1 in any language, perhaps coarse without spaces
# between words.
# True: the tokenizer keeps a to z and 0 to 9 and throws the rest away, so that two equal Chinese sentences
# score 0, as if nothing had been generated. Where a Latin word or a number is in both, the score is
# that of this word alone: two sentences about different things score 1. No warning.
# Give RougeScorer a tokenizer, for Chinese one of characters.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "rouge-score==0.1.2" "numpy==2.2.6"
"$work/venv/bin/python" - <<'PY'
from importlib.metadata import version

from rouge_score import rouge_scorer

print("rouge-score", version("rouge-score"))


class Characters:
    """One token a character."""

    def tokenize(self, text: str) -> list[str]:
        return [character for character in text if not character.isspace()]


pairs = {
    "English, equal": ("which city is nicer", "which city is nicer"),
    "Chinese, equal": ("广州和深圳哪个好", "广州和深圳哪个好"),
    "Chinese, different, a number in both": ("2024年房价涨了", "他在2024年没有毕业"),
}
scores = {}
for name, tokenizer in (("its own", None), ("of characters", Characters())):
    scorer = rouge_scorer.RougeScorer(["rougeL"], tokenizer=tokenizer)
    for kind, (reference, written) in pairs.items():
        scores[name, kind] = round(scorer.score(reference, written)["rougeL"].fmeasure, 3)
        print(f"tokenizer {name}; {kind}: ROUGE-L {scores[name, kind]}")
english, equal, different = pairs
kept = (
    [scores["its own", kind] for kind in pairs] == [1, 0, 1]
    and [scores["of characters", kind] for kind in (english, equal)] == [1, 1]
    and scores["of characters", different] < 0.8
)
raise SystemExit(0 if kept else "another behaviour")
PY
