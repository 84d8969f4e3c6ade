#!/usr/bin/env bash
# datasets 5.2.0, an IterableDataset that is shuffled, stopped and resumed by its state_dict.
# One would guess: state_dict and load_state_dict go on where the run was, so that the two parts of an epoch
# hold each example once; without shuffle they do.
# True: the state holds the place in the source and not the buffer. What was in the buffer at the stop is
# never seen in this epoch, save what is drawn by chance again: each stop loses about six tenths of a
# buffer, and some examples come twice. The log says that the buffer is filled again, not that examples
# are lost. Where each must be seen, shuffle a map-style data set.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "datasets==5.2.0"
HF_HOME="$work/home" HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'PY'
import datasets

print("datasets", datasets.__version__)
plain = datasets.Dataset.from_dict({"number": list(range(1000))}).to_iterable_dataset()
found = {}
for buffer in (None, 100, 400):

    def epoch() -> datasets.IterableDataset:
        return plain if buffer is None else plain.shuffle(seed=0, buffer_size=buffer)

    whole = [example["number"] for example in epoch()]
    running = epoch()
    examples = iter(running)
    before = [next(examples)["number"] for _ in range(300)]
    resumed = epoch()
    resumed.load_state_dict(running.state_dict())
    after = [example["number"] for example in resumed]
    both = before + after
    found[buffer] = (sorted(whole) == list(range(1000)), 1000 - len(set(both)), len(both) - len(set(both)))
    print(
        f"buffer {buffer}: an epoch without a stop has all 1000: {found[buffer][0]}; stopped after 300 and "
        f"resumed: {found[buffer][1]} examples never seen, {found[buffer][2]} seen twice"
    )
kept = all(whole for whole, _, _ in found.values()) and found[None][1:] == (0, 0)
kept = kept and found[100][1] > 25 and found[400][1] > 100
raise SystemExit(0 if kept else f"another behaviour: {found}")
PY
