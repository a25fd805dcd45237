#!/bin/sh
# tests/bench_acdit.sh: acdit.c at two sizes, both with 16 numbers a token: S (6 layers, width 384, 256 tokens, batch 8) and T (4 layers, width 96, 64 tokens, batch 32). Training, and
# sampling of four side by side in 25 steps a block with guidance.
# The paper's code (PyTorch 2.13, float32, eager / compiled, on a 2-core Intel with AMX) trains 4.93 / 6.04 (S), 221 / 325 (T, N = 4) and 217 / 299 (T, N = 16) pictures/s and makes
# 0.61 (S), 9.3 (T, N = 4) and 3.3 (T, N = 16); in bf16 8.8 / 11.7 and 1.1 (S).
set -eu
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
# pictures/s of the fastest `steps` steps in a row: of a batch, and of a log with the seconds so far, to the hundredth, in its last column
rate() { awk -F, -v batch="$1" -v n="$2" 'NR > 1 { s[NR] = $4; if (NR > n + 1 && (!best || s[NR] - s[NR - n] < best)) best = s[NR] - s[NR - n] } END { printf "%.1f", n * batch / best }' "$3/log.csv"; }
value() { sed -n "s/^$1:.* $2=\([^ ]*\).*/\1/p" "$3"; }
S="--data video --patch 4 --size 32 --clip 4 --layers 6 --width 384 --heads 6 --batch 8 --steps 8 --blocks 4"
T="--data video --patch 4 --size 16 --clip 4 --layers 4 --width 96 --heads 3 --batch 32 --steps 40 --blocks"
has_bf16=$(./acdit train $T 4 --steps 1 --out "$scratch/c" --precision auto | grep -o 'precision=bf16' || true)
for precision in fp32 ${has_bf16:+bf16}; do
    for size in S T4 T16; do
        case $size in S) options=$S batch=8 steps=4 ;; *) options="$T ${size#T}" batch=32 steps=20 ;; esac
        ./acdit train $options --precision $precision --out "$scratch/$size" --force >/dev/null
        best=0
        for repeat in 1 2 3; do
            ./acdit sample --out "$scratch/$size" --samples 4 --class fall --batch 4 --precision $precision >"$scratch/log"
            best=$(awk -v a=$best -v b="$(value sample pictures_per_s "$scratch/log")" 'BEGIN { print (a > b ? a : b) }')
        done
        echo "acdit $precision $size: training $(rate $batch $steps "$scratch/$size") pictures/s, sampling $best pictures/s"
    done
done
