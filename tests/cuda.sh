#!/bin/sh
# tests/cuda.sh: what the emulated device is asked in `make test`, asked of a real one. Without nvcc or a GPU there is nothing to test, and the last line says 0 failed.
set -u
build=${BUILD:-build}
[ -n "${NVCC:-}" ] || { echo "skipped: no nvcc"; echo "0 passed, 0 failed"; exit 0; }
nvidia-smi -L 2>/dev/null || { echo "skipped: no GPU"; echo "0 passed, 0 failed"; exit 0; }
./bd3lm check --device cuda tests/golden/bd3lm/cache_slides.safetensors >/dev/null || { echo "0 passed, 1 failed"; exit 1; }
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
. tests/part.sh
part $build/parity_cuda $build/cpu64.so
part ./bd3lm check --device cuda $(sh tests/supported.sh "${GOLDEN:-tests/golden/bd3lm}")
part ./df check --device cuda $(sh tests/supported.sh tests/golden/df)
part ./acdit check --device cuda $(sh tests/supported.sh tests/golden/acdit)
part sh tests/device.sh ./bd3lm "$scratch/device"
part sh tests/device_df.sh ./df "$scratch/device_df"
part sh tests/device_acdit.sh ./acdit "$scratch/device_acdit"
if command -v compute-sanitizer >/dev/null; then         # memory, races, uninitialised reads: a small training and a sampling
    small="--data README.md --vocab 30 --layers 2 --width 24 --heads 3 --length 24 --batch 2 --steps 2 --device cuda --force"
    for tool in memcheck racecheck initcheck; do
        part sh -c "compute-sanitizer --tool $tool --error-exitcode 1 ./bd3lm train $small --out $scratch/$tool >/dev/null 2>&1 && compute-sanitizer --tool $tool --error-exitcode 1 ./bd3lm sample --device cuda --out $scratch/$tool --chars 8 >/dev/null 2>&1 && echo '1 passed, 0 failed'"
    done
fi
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
