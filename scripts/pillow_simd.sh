#!/usr/bin/env bash
# What is pillow-simd worth? scripts/pillow_simd.sh [FOLDER] [options of pytest]
#
# pillow-simd replaces Pillow under the same name, so it gets an environment of its own,
# over .venv. In it, the PIL loader's tests and the decoders' benchmark are run; the
# benchmark of .venv, with Pillow, comes before, for the ratio.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-.venv-simd}
shift || true

for header in jpeglib.h zlib.h; do
    if ! echo "#include <stdio.h>
#include <$header>" | cc -E - >/dev/null 2>&1; then
        echo "error: $header is missing; on Debian, as root:" \
            "apt-get install libjpeg-dev zlib1g-dev" >&2
        exit 1
    fi
done
if ! grep -q avx2 /proc/cpuinfo; then
    echo "error: this processor has no AVX2" >&2
    exit 1
fi

site() { "$1/bin/python" -c 'import site; print(site.getsitepackages()[0])'; }
.venv/bin/python -m venv "$folder"
{ site .venv && pwd; } >"$(site "$folder")/fastretina.pth"
CC="cc -mavx2" "$folder/bin/python" -m pip install --quiet --disable-pip-version-check \
    --no-deps --no-binary pillow-simd pillow-simd
"$folder/bin/python" -c 'import PIL; print("Pillow is now pillow-simd", PIL.__version__)'

"$folder/bin/python" -m pytest -q tests/loaders/test_loader_contract.py \
    tests/loaders/test_parity.py -k pil
for python in .venv "$folder"; do
    "$python/bin/python" -m pytest bench/bench_decode.py bench/bench_batch.py \
        --benchmark-only -q --no-peers -k 'illow or pil or report' \
        --benchmark-json=".benchmarks/$(basename "$python").json" "$@"
done
"$folder/bin/python" -m bench.report ".benchmarks/$(basename "$folder").json" \
    --compare .benchmarks/.venv.json
