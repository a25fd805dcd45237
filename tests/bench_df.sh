#!/bin/sh
# tests/bench_df.sh: df.c at the sizes of the paper's planners: the recurrent one (width 512, 30 tokens of 60 numbers, batch 256) and the transformer (128 wide, 12 layers,
# 61 tokens of 20, batch 64); plans of 60 tokens in 50 steps along the pyramid, 32 side by side; steps of the maze.
# The paper's code (PyTorch 2.13, float32, on a 2-core Intel with AMX whose float32 product reached 420 GFLOP/s) trains 367 to 381 and 143 to 164 sequences/s and makes 2.2 and 5.2 plans/s.
set -eu
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
# sequences/s of the fastest four steps: of a batch, and of a log with the seconds so far in its last column
rate() { awk -F, -v batch="$1" 'NR > 1 { s[NR] = $4; if (NR > 5 && (!best || s[NR] - s[NR - 4] < best)) best = s[NR] - s[NR - 4] } END { printf "%.0f", 4 * batch / best }' "$2/log.csv"; }
value() { sed -n "s/^$1:.* $2=\([^ ]*\).*/\1/p" "$3"; }
has_bf16=$(./df train --task cross --steps 1 --out "$scratch/c" --precision auto | grep -o 'precision=bf16' || true)
for precision in fp32 ${has_bf16:+bf16}; do
    ./df train --task maze2d --width 512 --state 128 --layers 4 --batch 256 --steps 16 --data-steps 50000 --precision $precision --out "$scratch/rnn$precision" >/dev/null
    ./df train --task maze2d --net transformer --layers 12 --tokens 60 --batch 64 --steps 16 --data-steps 50000 --precision $precision --out "$scratch/tf$precision" >/dev/null
    for net in rnn tf; do ./df sample --task maze2d --out "$scratch/$net$precision" --samples 32 --length 60 --sampling-steps 50 --precision $precision >"$scratch/plan_$net"; done
    echo "df $precision: train rnn $(rate 256 "$scratch/rnn$precision") sequences/s, transformer $(rate 64 "$scratch/tf$precision") | plans of 60 tokens: rnn $(awk "BEGIN { printf \"%.1f\", 32 / $(value sample seconds "$scratch/plan_rnn") }") /s, transformer $(awk "BEGIN { printf \"%.1f\", 32 / $(value sample seconds "$scratch/plan_tf") }") /s"
done
./df eval --task maze2d --out "$scratch/rnnfp32" --controller waypoints --samples 2000 >"$scratch/env"
echo "maze2d: $(awk "BEGIN { printf \"%.0f\", 2000 * 300 / $(value eval seconds "$scratch/env") }") steps of the environment/s, with the controller"
