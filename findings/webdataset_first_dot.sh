#!/usr/bin/env bash
# webdataset 1.0.2, a shard whose files have a number with a point in their names.
# One would guess: the extension is what follows the last point, as everywhere, so that guidance_0.25.png
# and guidance_0.50.png with their .json are two samples.
# True: the key ends at the first point of the name. All files of "guidance_0" become one sample with fields
# "25.png", "50.png", ..., and a pipeline that asks for "png" finds none in it: where missing fields are
# allowed, the samples are gone with no word, and the count of samples is that of the parts before the point.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check "webdataset==1.0.2" "numpy==2.2.6"
venv/bin/python - <<'PY'
import io
import tarfile
from importlib.metadata import version

import webdataset

print("webdataset", version("webdataset"))


def shard(path: str, names: list[str]) -> None:
    with tarfile.open(path, "w") as tar:
        for name in names:
            for suffix, content in (("txt", name.encode()), ("cls", b"1")):
                member = tarfile.TarInfo(f"{name}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


found = {}
for path, names in {
    "underscores.tar": ["guidance_0_25", "guidance_0_50", "guidance_1_00", "plain"],
    "points.tar": ["guidance_0.25", "guidance_0.50", "guidance_1.00", "plain"],
}.items():
    shard(path, names)
    samples = list(webdataset.WebDataset(path, shardshuffle=False))
    fields = {s["__key__"]: sorted(k for k in s if k.endswith(("txt", "cls"))) for s in samples}
    whole = [s for s in samples if "txt" in s and "cls" in s]
    found[path] = (len(samples), len(whole))
    print(f"{path}: {len(names)} pairs of files, {len(samples)} samples, {len(whole)} with txt and cls: {fields}")
expected = {"underscores.tar": (4, 4), "points.tar": (3, 1)}
raise SystemExit(0 if found == expected else f"another behaviour: {found}")
PY
