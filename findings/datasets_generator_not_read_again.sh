#!/usr/bin/env bash
# datasets 5.2.0, Dataset.from_generator of a function that reads a file, called again after the file changed.
# One would guess: a generator is run whenever it is called; only load_dataset keeps what it read, and that
# looks whether its files are the same.
# True: the examples are kept on disk under a hash of the function's code and its arguments, not of what it
# reads. After the corpus is corrected, the next run, in another process too, gets the old sentences and
# does not run the function at all; nothing is said. load_dataset does see the change. Put a hash of the file
# among gen_kwargs, or the cache into a folder of the run.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check "datasets==5.2.0"
cat > read.py <<'PY'
import sys

import datasets

datasets.disable_progress_bars()


def lines(path: str):
    with open(path) as file:
        for line in file:
            yield {"text": line.strip()}


if sys.argv[1] == "generator":
    data = datasets.Dataset.from_generator(lines, gen_kwargs={"path": "corpus.txt"})
else:
    data = datasets.load_dataset("text", data_files="corpus.txt", split="train")
print(" / ".join(data["text"]))
PY
export HF_HOME="$work/home" HF_HUB_OFFLINE=1
venv/bin/pip list 2>/dev/null | grep -E "^(datasets|pyarrow) "
for way in generator files; do
  echo "a sentence with a mistake" > corpus.txt
  first=$(venv/bin/python read.py $way)
  printf '%s\n' "the sentence, corrected" "and one more" > corpus.txt
  second=$(venv/bin/python read.py $way)
  echo "$way: first '$first', after the change '$second'"
  [ "$first" = "a sentence with a mistake" ]
  if [ $way = generator ]; then [ "$second" = "$first" ]; else [ "$second" = "the sentence, corrected / and one more" ]; fi
done
