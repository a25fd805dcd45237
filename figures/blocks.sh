#!/bin/sh
# What do blocks cost in quality? (Fig. 4, left; Fig. 6b) The same network, steps and pictures in N = 1, 4 and 16 blocks (N = 1 is DiT), and in 4 blocks that see noised
# instead of clean blocks before them: Frechet distance against steps of training, without and with guidance, three seeds.      figures/blocks.sh && cat figures/blocks.csv
# Writes figures/blocks.csv (blocks,context,seed,steps,guidance,frechet,class_accuracy,loss) and, with gnuplot, figures/blocks.png.
set -eu
cd "$(dirname "$0")/.."
make -s acdit
sh data/get.sh fashion
out=out/blocks
mkdir -p $out
[ -s $out/judge/classifier.safetensors ] || ./acdit classify --classifier $out/judge --force >$out/judge.log
value() { sed -n "s/^eval:.* $1=\([^ ]*\).*/\1/p" "$2"; }
one() {                                                 # one N CONTEXT SEED
    run=$out/$1$2$3
    rm -f $run.csv
    resume="--blocks $1 --context $2 --seed $3 --batch 16 --lr 3e-3 --decay 0 --force"
    for steps in ${STEPS:-1000 2000 4000}; do
        ./acdit train $resume --steps "$steps" --threads 1 --out $run >$run.log
        resume=--resume
        for guidance in 1 1.5; do
            [ "$2 $guidance" != "noised 1.5" ] || continue
            ./acdit eval --out $run --samples "${SAMPLES:-50}" --batch 50 --guidance $guidance --classifier $out/judge --threads 1 >$run.eval
            echo "$1,$2,$3,$steps,$guidance,$(value frechet $run.eval),$(value class_accuracy $run.eval),$(value loss $run.eval)" >>$run.csv
        done
    done
}
for seed in 1 2 3; do
    one 1 clean $seed & one 4 clean $seed & wait        # two at a time
    one 16 clean $seed & one 4 noised $seed & wait
done
{ echo "blocks,context,seed,steps,guidance,frechet,class_accuracy,loss"; cat $out/*clean?.csv $out/*noised?.csv; } >figures/blocks.csv
awk -F, 'NR > 1 { k = "blocks=" $1 " context=" $2 " steps=" $4 " guidance=" $5; if (!n[k]++) order[++kinds] = k; sum[k] += $6; square[k] += $6^2 }
    END { for (i = 1; i <= kinds; i++) { k = order[i]; m = sum[k] / n[k]; printf "%s frechet=%.2f stderr=%.2f\n", k, m, sqrt((square[k] / n[k] - m^2) / (n[k] - 1)) } }' figures/blocks.csv
if command -v gnuplot >/dev/null; then
    gnuplot <<'PLOT'
set terminal pngcairo size 1000,460 font 'Sans,11'
set output 'figures/blocks.png'
set datafile separator ','
set multiplot layout 1,2
set xlabel 'steps of training'
set ylabel 'Frechet distance to test pictures (features of a classifier)'
set yrange [0:*]
set logscale x 2
set xtics (1000, 2000, 4000)
set xrange [900:4500]
set key bottom left
curve(n, context, w) = sprintf("< awk -F, 'NR > 1 && $1 == %d && $2 == \"%s\" && $5 == %g { n[$4]++; s[$4] += $6; q[$4] += $6^2 } END { for (k in n) { m = s[k]/n[k]; print k \",\" m \",\" sqrt((q[k]/n[k] - m^2) / (n[k] - 1)) } }' figures/blocks.csv | sort -n", n, context, w)
do for [w in '1 1.5'] {
    set title (w eq '1' ? 'without guidance' : 'guidance 1.5')
    if (w eq '1') { plot curve(1, 'clean', 1) using 1:2:3 with yerrorlines lw 2 title 'N = 1 (DiT)', curve(4, 'clean', 1) using 1:2:3 with yerrorlines lw 2 title 'N = 4', curve(16, 'clean', 1) using 1:2:3 with yerrorlines lw 2 title 'N = 16', curve(4, 'noised', 1) using 1:2:3 with yerrorlines lw 2 dt 2 title 'N = 4, noised context' }
    else { plot curve(1, 'clean', 1.5) using 1:2:3 with yerrorlines lw 2 title 'N = 1 (DiT)', curve(4, 'clean', 1.5) using 1:2:3 with yerrorlines lw 2 title 'N = 4', curve(16, 'clean', 1.5) using 1:2:3 with yerrorlines lw 2 title 'N = 16' }
}
unset multiplot
PLOT
fi
