#!/bin/sh
# Runs every test and adds up their counts. The last line is `N passed, N failed`; exit status 0 only if nothing failed and every part reported.
set -u
build=${BUILD:-build}
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}           # threads that wait do not take the processor from other programs
scratch=$(mktemp -d) lane=
trap 'kill $lane 2>/dev/null; rm -rf "$scratch"' EXIT
. tests/part.sh

golden=${GOLDEN:-tests/golden/bd3lm}
supported=$(sh tests/supported.sh "$golden")

# the CUDA kernels, on an emulated device, beside everything else; one thread: two would mostly wait for each other
emulated() {
    scratch=$scratch/emulated
    mkdir "$scratch"
    export OMP_NUM_THREADS=1
    part $build/test_emu
    part $build/parity_emu $build/cpu64.so
    part ./bd3lm_emu check --device cuda $supported
    part ./df_emu check --device cuda $(sh tests/supported.sh tests/golden/df)
    part ./acdit_emu check --device cuda $(sh tests/supported.sh tests/golden/acdit)
    part sh tests/device.sh ./bd3lm_emu "$scratch/device"
    part sh tests/device_df.sh ./df_emu "$scratch/device_df"
    part sh tests/device_acdit.sh ./acdit_emu "$scratch/device_acdit"
    echo "$passed passed, $failed failed"
}
if [ -n "${EMU:-}" ]; then emulated >"$scratch/emulated.log" 2>&1 & lane=$!; fi

part $build/parity $build/cpu64.so
part $build/parity_amx $build/cpu64.so
part $build/test_common "$scratch"
part $build/test_series
part $build/test_images "$scratch"
part $build/test_maze "$scratch"
part $build/test_video "$scratch"
part $build/test_motion
part $build/test_scores
part $build/test_ops
part $build/test_bd3lm64
part $build/test_bd3lm
part $build/test_df64
part $build/test_df
part $build/test_acdit64
part $build/test_acdit
part ./bd3lm check $supported
part ./bd3lm check --naive $supported
part $build/bd3lm64 check $supported
part ./df check $(sh tests/supported.sh tests/golden/df)
part ./df check --naive $(sh tests/supported.sh tests/golden/df)
part $build/df64 check $(sh tests/supported.sh tests/golden/df)
part ./acdit check $(sh tests/supported.sh tests/golden/acdit)
part ./acdit check --naive $(sh tests/supported.sh tests/golden/acdit)
part $build/acdit64 check $(sh tests/supported.sh tests/golden/acdit)
part $build/test_check_bd3lm $(sh tests/supported.sh tests/golden/bd3lm)
part $build/test_check_df $(sh tests/supported.sh tests/golden/df)
part $build/test_check_acdit $(sh tests/supported.sh tests/golden/acdit)
part $build/fuzz "$scratch" 6000 20000 tests/golden/bd3lm/masks_L6_b2.safetensors tests/golden/bd3lm/noise_loglinear.safetensors
part $build/fuzz_df "$scratch" 6000 0 $(sh tests/supported.sh tests/golden/df)
part $build/fuzz_acdit "$scratch" 12000 0 $(sh tests/supported.sh tests/golden/acdit)
part sh tests/cli.sh "$scratch"
part sh tests/cli_df.sh "$scratch"
part sh tests/cli_acdit.sh "$scratch"
if [ -n "$lane" ]; then
    wait $lane
    line=$(tail -n 1 "$scratch/emulated.log")
    case $line in [0-9]*" passed, "*" failed") sed '$d' "$scratch/emulated.log" ;; *) cat "$scratch/emulated.log"; line="0 passed, 1 failed" ;; esac
    passed=$((passed + ${line%% *})) line=${line#*, } failed=$((failed + ${line%% *}))
else echo "         skipped: no C++ compiler for the emulated CUDA kernels"
fi
echo "$passed passed, $failed failed"
[ $failed -eq 0 ] && [ $passed -gt 0 ]
