#!/usr/bin/env bash
# safetensors 0.8.0, arrays of NumPy that are transposed or a part of the columns.
# One would guess: save_file writes the numbers that the array has, or refuses as safetensors.torch does
# for a tensor that is not contiguous.
# True: the bytes are taken in the order of memory, as if the array were contiguous. The file has the right
# shape and dtype and other numbers: a transposed weight comes back untransposed and cut into rows of the
# other length, every second column has the columns between. Nothing is said. Version 0.5.3 wrote the
# right numbers.
# Save np.ascontiguousarray(x) of everything.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
cat > "$work/save.py" <<'PY'
import sys

import numpy as np
import safetensors
from safetensors.numpy import load, save

weight = np.arange(6, dtype=np.float32).reshape(2, 3)
arrays = {
    "as made": weight,
    "rows 1 to the end": weight[1:],
    "transposed": weight.T,
    "Fortran order": np.asfortranarray(weight),
    "every second column": weight[:, ::2],
}
print("safetensors", safetensors.__version__, "numpy", np.__version__)
right = {}
for name, array in arrays.items():
    back = load(save({"weight": array}))["weight"]
    assert back.shape == array.shape and back.dtype == array.dtype
    right[name] = bool(np.array_equal(back, array))
    print(f"  {name}: saved {array.tolist()}, read {back.tolist()}")
contiguous = load(save({"weight": np.ascontiguousarray(weight.T)}))["weight"]
all_right = dict.fromkeys(arrays, True)
expected = all_right if sys.argv[1] == "right" else all_right | dict.fromkeys(list(arrays)[2:], False)
kept = right == expected and np.array_equal(contiguous, weight.T)
raise SystemExit(0 if kept else f"another behaviour: {right}")
PY
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "safetensors==0.5.3" "numpy==2.2.6"
"$work/venv/bin/python" "$work/save.py" right
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "safetensors==0.8.0"
"$work/venv/bin/python" "$work/save.py" wrong
