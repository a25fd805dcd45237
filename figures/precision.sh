#!/bin/sh
# Do fp32 and bf16 train alike? The demo's network and text, 2000 steps, three seeds, paired: both runs of a seed see the same batches, levels and
# masks. Held-out loss: `eval` on the validation part, with the same draws for both.      figures/precision.sh && cat figures/precision.csv
# Writes figures/precision.csv (one line a run), and with gnuplot figures/precision.png (training loss, both runs of every seed).
set -eu
cd "$(dirname "$0")/.."
make -s all data
out=out/precision
mkdir -p $out
csv=figures/precision.csv
echo "seed,precision,steps,train_loss,heldout_nats,heldout_stderr" >$out/table.csv
value() { sed -n "s/^$1:.* $2=\([^ ]*\).*/\1/p" "$3"; }
for seed in 1 2 3; do
    for precision in fp32 bf16; do
        run=$out/$precision$seed
        ./bd3lm train --out $run --force --steps "${STEPS:-2000}" --seed $seed --precision $precision --clip-min 0.45 >$run.train
        ./bd3lm eval --out $run --split validation --draws 2 --precision $precision >$run.eval
        echo "$seed,$precision,${STEPS:-2000},$(value train loss $run.train),$(value eval nats $run.eval),$(value eval stderr $run.eval)" >>$out/table.csv
    done
done
mv $out/table.csv $csv
awk -F, 'NR > 1 { loss[$1,$2] = $5; seeds[$1] = 1 }
    END { for (s in seeds) { d = loss[s,"bf16"] - loss[s,"fp32"]; sum += d; sum2 += d*d; n++ }
          printf "precision: pairs=%d mean_difference=%.5f stderr=%.5f\n", n, sum/n, sqrt((sum2/n - (sum/n)^2) / (n - 1)) }' $csv
if command -v gnuplot >/dev/null; then
    gnuplot <<'PLOT'
set terminal pngcairo size 900,560 font 'Sans,11'
set output 'figures/precision.png'
set datafile separator ','
set xlabel 'optimiser step'
set ylabel 'training loss, nats per token, smoothed'
set key top right
plot \
     for [s=1:3] sprintf('out/precision/fp32%d/log.csv', s) skip 1 using 1:2 smooth bezier with lines lw 3 lc rgb '#9ecae1' title sprintf('fp32, seed %d', s), \
     for [s=1:3] sprintf('out/precision/bf16%d/log.csv', s) skip 1 using 1:2 smooth bezier with lines lw 1 dt 2 lc rgb '#a50f15' title sprintf('bf16, seed %d', s)
PLOT
else echo "without gnuplot there is no figures/precision.png"; fi
