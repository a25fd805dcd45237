#!/bin/sh
# tests/device_df.sh PROGRAM DIR: PROGRAM, df built with CUDA (emulated or not): losses, gradient norms, samples and the bound agree with its own CPU, guidance and
# stabilising noise included; a resumed run on the device equals an uninterrupted one to the bit; errors are one line each.
set -u
program=$1 dir=$2 passed=0 failed=0
. tests/device_part.sh
small="--levels 30 --width 8 --state 8 --level-width 4 --layers 1 --heads 2 --batch 2 --precision fp32"

# two tables or last lines: as many cells, of which the numbers differ by <= 1e-3, and some are not 0; times apart
close_to() { sed 's/ seconds=.*//' "$1" >"$dir/one"; sed 's/ seconds=.*//' "$2" | paste -d '\n' "$dir/one" - | awk -F '[,= ]' '
    NR % 2 { n = NF; split($0, a, "[,= ]"); next } { if (NF != n) bad++; for (i = 1; i <= NF; i++) if (a[i] != $i && !($i - a[i] <= 1e-3 && a[i] - $i <= 1e-3 && a[i] $i ~ /^[-0-9.]*$/)) bad++; else same += a[i] != 0 }
    END { exit bad > 0 || same < 5 }'; }
# compare VERB CSV NAME OPTIONS...: on the CPU, then on the device; CSV: the table to compare beside the last line, - for none
compare() {
    verb=$1 csv=$2 out=$dir/cpu$3; shift 3
    for device in cpu cuda; do
        $program $verb --out "$out" "$@" --device $device --precision fp32 >"$dir/log" 2>"$dir/stderr" || fail "$verb $* on $device: $(tail -n 1 "$dir/stderr")"
        tail -n 1 "$dir/log" >"$dir/line.$device"; [ "$csv" = - ] || cp "$out/$csv" "$dir/csv.$device"
    done
    check "$verb $*: another last line" close_to "$dir/line.cpu" "$dir/line.cuda"
    [ "$csv" = - ] || check "$verb $*: another $csv" close_to "$dir/csv.cpu" "$dir/csv.cuda"
}
train() {                                               # train NAME OPTIONS...
    name=$1; shift
    for device in cpu cuda; do $program train $small "$@" --steps 10 --device $device --out "$dir/$device$name" >"$dir/log" 2>&1 || fail "train $name on $device: $(tail -n 1 "$dir/log")"; done
    check "$name: step 1" near "$dir/cpu$name/log.csv" "$dir/cuda$name/log.csv" 1 1e-5
    check "$name: step 10" near "$dir/cpu$name/log.csv" "$dir/cuda$name/log.csv" 10 1e-3
}
quick="--samples 2 --sampling-steps 5"

train cross --task cross --tokens 6
compare eval - cross --samples 2 --elbo --draws 2 --observed 0-3
compare eval - cross $quick
train video --task video --tokens 5 --size 8 --patches 4
compare eval video.csv video $quick --length 7 --context 2
compare eval video.csv video $quick --length 7 --context 2 --stabilise-with noise --stabilise-truth --eta 1
train maze --task maze2d --tokens 3 --frames 50 --data-steps 2000
compare eval episodes.csv maze $quick --replan 150 --guidance 2 --futures 2
if $program sample --out "$dir/cpumaze" $quick >/dev/null 2>&1; then         # built with stb_image_write
    compare sample maze.csv maze $quick --guidance 2 --futures 2
    compare sample cross.csv cross $quick --sampler ddpm --sampling-steps 30
fi
$program train $small --task cross --tokens 6 --steps 3 --device cuda --naive --out "$dir/naive" >/dev/null 2>&1
check "the plain kernels: step 3" near "$dir/cpucross/log.csv" "$dir/naive/log.csv" 3 1e-4

# deterministic, and a run in two pieces is a run in one
$program train $small --task cross --tokens 6 --steps 6 --device cuda --out "$dir/pieces" >/dev/null 2>&1
$program train --resume --steps 10 --device cuda --out "$dir/pieces" >/dev/null 2>&1
check "two pieces, other bits" cmp -s "$dir/pieces/df.safetensors" "$dir/cudacross/df.safetensors"

# one line each, and nothing is written
refused 'precision bf16: not with --device cuda' $program train $small --precision bf16 --device cuda --out "$dir/none"
refused 'device tpu: cpu or cuda' $program train $small --device tpu --out "$dir/none"
case $program in *emu*)
    refused 'no CUDA device found (no CUDA-capable device is detected)' env EMU_DEVICES=0 $program train $small --device cuda --out "$dir/none"
    refused 'MB of memory are needed, a GPU.* has 0.1 MB free' env EMU_MEMORY=100000 $program train $small --device cuda --out "$dir/none"
    refused 'no CUDA device found' env EMU_DEVICES=0 $program sample $quick --device cuda --out "$dir/cpucross" ;;
esac
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
