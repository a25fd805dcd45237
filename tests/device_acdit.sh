#!/bin/sh
# tests/device_acdit.sh PROGRAM DIR: PROGRAM, acdit built with CUDA (emulated or not): losses, gradient norms, losses by context and the measures of what it makes agree with
# its own CPU; a resumed run on the device equals an uninterrupted one to the bit; errors are one line each.
set -u
program=$1 dir=$2 passed=0 failed=0
. tests/device_part.sh
small="--data video --patch 4 --size 12 --clip 4 --width 32 --heads 2 --layers 2 --batch 2 --blocks 2 --warmup 2 --lr 0.01 --precision fp32"

for device in cpu cuda; do
    $program train $small --steps 5 --device $device --out "$dir/$device" >"$dir/log" 2>&1 || fail "train on $device: $(tail -n 1 "$dir/log")"
done
check "step 1" near "$dir/cpu/log.csv" "$dir/cuda/log.csv" 1 1e-5
check "step 5" near "$dir/cpu/log.csv" "$dir/cuda/log.csv" 5 1e-3
$program train $small --steps 3 --device cuda --naive --out "$dir/naive" >/dev/null 2>&1
check "the plain kernels: step 3" near "$dir/cpu/log.csv" "$dir/naive/log.csv" 3 1e-4

# both judge the network that the CPU has trained, with cached sampling, guidance and contexts of every kind
for device in cpu cuda; do
    $program eval --out "$dir/cpu" --samples 1 --batch 5 --sampling-steps 2 --exposure --device $device --precision fp32 >"$dir/line.$device" 2>"$dir/stderr" || fail "eval on $device: $(tail -n 1 "$dir/stderr")"
    cp "$dir/cpu/blocks.csv" "$dir/blocks.$device" 2>/dev/null
done
check "other losses by context" sh -c 'paste -d, "$1" "$2" | awk -F, "NR > 1 { for (i = 2; i <= NF/2; i++) { n++; good += \$i - \$(i + NF/2) <= 1e-4 && \$(i + NF/2) - \$i <= 1e-4 } } END { exit !(n == 32 && good == n) }"' sh "$dir/blocks.cpu" "$dir/blocks.cuda"
for key in loss frame_error position_error; do
    value() { tail -n 1 "$1" | sed "s/.* $key=\([^ ]*\).*/\1/"; }
    check "another $key: $(value "$dir/line.cpu"), $(value "$dir/line.cuda")" awk -v a="$(value "$dir/line.cpu")" -v b="$(value "$dir/line.cuda")" 'BEGIN { exit !(a > 0 && a - b <= 1e-3 * a && b - a <= 1e-3 * a) }'
done

# deterministic, and a run in two pieces is a run in one (without the decay of the learning rate, which knows the end)
$program train $small --decay 0 --steps 4 --device cuda --out "$dir/whole" >/dev/null 2>&1
$program train $small --decay 0 --steps 2 --device cuda --out "$dir/pieces" >/dev/null 2>&1
$program train --resume --steps 4 --device cuda --precision fp32 --out "$dir/pieces" >/dev/null 2>&1
check "two pieces, other bits" cmp -s "$dir/pieces/acdit.safetensors" "$dir/whole/acdit.safetensors"

# one line each, and nothing is written
refused 'precision bf16: not with --device cuda' $program train $small --precision bf16 --device cuda --out "$dir/none"
refused 'device tpu: cpu or cuda' $program train $small --device tpu --out "$dir/none"
case $program in *emu*)
    refused 'no CUDA device found (no CUDA-capable device is detected)' env EMU_DEVICES=0 $program train $small --device cuda --out "$dir/none"
    refused 'MB of memory are needed, a GPU.* has 0.1 MB free' env EMU_MEMORY=100000 $program train $small --device cuda --out "$dir/none" ;;
esac
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
