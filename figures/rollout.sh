#!/bin/sh
# Does a roll-out stay good far beyond the training length? (Fig. 3) Teacher forcing, full-sequence diffusion and Diffusion Forcing with the same network, steps and
# sampler, trained on 20 frames, roll out 200 of bouncing sprites. The error of a frame is the least RMS distance to any frame that the generator could draw.
# Each gets the stabilisation that is best for it on videos of other seeds.      figures/rollout.sh && cat figures/rollout.csv
# Writes figures/rollout.csv (noise,seed,frame,error), figures/rollout_summary.csv (one line a network) and, with gnuplot, figures/rollout.png.
set -eu
cd "$(dirname "$0")/.."
make -s df
out=out/rollout
steps=${STEPS:-2000}
mkdir -p $out
value() { sed -n "s/^eval:.* $1=\([^ ]*\).*/\1/p" "$2"; }
one() {                                                 # one NOISE SEED
    run=$out/$1$2
    ./df train --task video --noise "$1" --seed "$2" --steps "$steps" --precision fp32 --threads 1 --out $run --force >$run.train
    best=9 how=
    for level in 0 1 15 50 100 200; do for with in label noise; do
        ./df eval --task video --out $run --length 200 --samples 16 --seed 900 --stabilise $level --stabilise-with $with --precision fp32 --threads 1 >$run.eval 2>/dev/null || continue
        error=$(value error $run.eval)
        echo "$1,$2,$level,$with,$error,$(value error_last $run.eval),$(value objects_wrong $run.eval)" >>$run.choices
        if awk "BEGIN { exit !($error < $best) }"; then best=$error how="--stabilise $level --stabilise-with $with"; fi
    done; done
    ./df eval --task video --out $run --length 200 --samples 32 --seed $((1000 + $2)) $how --precision fp32 --threads 1 >$run.eval
    awk -F, -v noise="$1" -v seed="$2" 'NR > 1 { print noise "," seed "," $1 "," $2 }' $run/video.csv >$run.curve
    echo "$1,$2,$how,$(value error $run.eval),$(value error_last $run.eval),$(value objects_wrong $run.eval)" >$run.line
}
for seed in 1 2 3; do
    rm -f $out/*$seed.choices
    for noise in independent teacher full; do
        one $noise $seed &
        [ $noise = independent ] || wait                # two at a time
    done
done
wait
{ echo "noise,seed,frame,error"; cat $out/*.curve; } >figures/rollout.csv
{ echo "noise,seed,stabilisation,error,error_last,objects_wrong"; cat $out/*.line; } >figures/rollout_summary.csv
awk -F, 'NR > 1 && $3 == 199 { sum[$1] += $4; square[$1] += $4^2; n[$1]++ }
    END { for (k in n) { m = sum[k] / n[k]; printf "rollout: noise=%s seeds=%d error_at_200=%.4f stderr=%.4f\n", k, n[k], m, sqrt((square[k] / n[k] - m^2) / (n[k] - 1)) } }' figures/rollout.csv
if command -v gnuplot >/dev/null; then
    gnuplot <<'PLOT'
set terminal pngcairo size 900,520 font 'Sans,11'
set output 'figures/rollout.png'
set datafile separator ','
set xlabel 'frame (training sequences have 20)'
set ylabel 'error of a frame: least RMS distance to a true one'
set yrange [0:*]
set key outside top center horizontal
set arrow from 20, graph 0 to 20, graph 1 nohead dt 3
plot for [i=1:3] for [s=1:3] sprintf("< awk -F, '$1 == \"%s\" && $2 == %d' figures/rollout.csv", word('teacher full independent', i), s) using 3:4 with lines lw 1.5 \
     lc rgb word('#d62728 #ff9f0e #1f77b4', i) title (s == 1 ? word('"teacher forcing" "full sequence" "Diffusion Forcing"', i) : '')
PLOT
else echo "without gnuplot there is no figures/rollout.png"; fi
