#!/bin/sh
# tests/device.sh PROGRAM DIR: PROGRAM, built with CUDA (emulated or not): losses, gradient norms, texts and the exact bound agree with its own CPU; a resumed run
# on the device equals an uninterrupted one to the bit; errors are one line each.
set -u
program=$1 dir=$2 passed=0 failed=0
. tests/device_part.sh
cat README.md >"$dir/text"
net="--data $dir/text --vocab 30 --layers 2 --width 24 --heads 3 --length 24 --batch 4 --cond 5 --precision fp32"

text_of() { sed '1,2d; $d' "$1"; }                      # what a run of sample writes, without configuration and times

for form in "bd3 --dropout 0.1" "bd3 --block 24" "ar --dropout 0.1"; do
    name=$(echo "$form" | tr -d ' -')
    $program train $net --objective $form --steps 20 --out "$dir/cpu$name" >"$dir/log" 2>&1 || fail "train on the CPU: $(tail -n 1 "$dir/log")"
    $program train $net --objective $form --steps 20 --device cuda --out "$dir/cuda$name" >"$dir/log" 2>&1 || fail "train on the device: $(tail -n 1 "$dir/log")"
    check "$form: step 1" near "$dir/cpu$name/log.csv" "$dir/cuda$name/log.csv" 1 1e-5
    check "$form: step 20" near "$dir/cpu$name/log.csv" "$dir/cuda$name/log.csv" 20 1e-3
    for sampler in "" "--sampler ancestral --sampling-steps 8" "--nucleus 1"; do
        [ "$form" = "ar --dropout 0.1" ] && [ "$sampler" = "--sampler ancestral --sampling-steps 8" ] && continue
        $program sample --out "$dir/cpu$name" --samples 2 --chars 32 --precision fp32 $sampler >"$dir/a" && $program sample --out "$dir/cpu$name" --samples 2 --chars 32 --precision fp32 $sampler --device cuda >"$dir/b" || fail "sample $sampler"
        text_of "$dir/a" >"$dir/a.text"; text_of "$dir/b" >"$dir/b.text"
        [ "$(wc -c <"$dir/a.text")" -gt 50 ] && cmp -s "$dir/a.text" "$dir/b.text" && ok || fail "$form: sample $sampler writes another text"
    done
done
nats() { $program eval --out "$dir/cpubd3dropout0.1" --text 'what lies between' --estimator exact --precision fp32 "$@" | sed -n 's/.* nats=\([0-9.]*\) .*/\1/p'; }
[ -n "$(nats)" ] && [ "$(nats)" = "$(nats --device cuda)" ] && ok || fail "eval: $(nats) $(nats --device cuda)"
$program train $net --objective bd3 --dropout 0.1 --steps 3 --device cuda --naive --out "$dir/naive" >/dev/null 2>&1
check "the plain kernels: step 3" near "$dir/cpubd3dropout0.1/log.csv" "$dir/naive/log.csv" 3 1e-4

# deterministic, and a run in two pieces is a run in one
$program train $net --objective bd3 --dropout 0.1 --steps 12 --device cuda --out "$dir/pieces" >/dev/null 2>&1
$program train --resume --steps 20 --device cuda --out "$dir/pieces" >/dev/null 2>&1
check "two pieces, other bits" cmp -s "$dir/pieces/bd3lm.safetensors" "$dir/cudabd3dropout0.1/bd3lm.safetensors"

# one line each, and nothing is written
refused 'precision bf16: not with --device cuda' $program train $net --precision bf16 --device cuda --out "$dir/none"
refused 'device tpu: cpu or cuda' $program train $net --device tpu --out "$dir/none"
case $program in *emu*)
    refused 'no CUDA device found (no CUDA-capable device is detected)' env EMU_DEVICES=0 $program train $net --device cuda --out "$dir/none"
    refused 'no code for .* (make clean all CUDA_ARCH=sm_90): no kernel image' env EMU_ARCH=none $program train $net --device cuda --out "$dir/none"
    refused 'MB of memory are needed, a GPU.* has 0.1 MB free' env EMU_MEMORY=100000 $program train $net --device cuda --out "$dir/none" ;;
esac
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
