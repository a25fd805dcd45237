#!/bin/sh
# What is a memory for? (Fig. 7) Trained on straight ways from corner to opposite corner, the recurrent network repeats them in one plan; in plans of half the length, each of which
# knows only where it begins, it forgets at the centre where it came from, and goes on to any of the four corners: of its paths 1/4 are straight, 1/2 V shapes, 1/4 go back.
#     figures/cross.sh && cat figures/cross.csv
# Writes figures/cross.csv (three networks, 400 paths each) and, with gnuplot, figures/cross.png (the first network, 32 paths).
set -eu
cd "$(dirname "$0")/.."
make -s df
out=out/cross
value() { sed -n "s/^eval:.* $1=\([^ ]*\).*/\1/p" "$2"; }
mkdir -p $out
echo "seed,plan,straight,v,back,off" >$out/table.csv
for seed in 1 2 3; do
    run=$out/$seed
    ./df train --task cross --seed $seed --steps "${STEPS:-2000}" --precision fp32 --out $run --force >$run.train
    ./df eval --task cross --out $run --samples 400 --precision fp32 >$run.eval
    echo "$seed,16,$(value straight $run.eval),$(value v $run.eval),$(value back $run.eval),$(value off $run.eval)" >>$out/table.csv
    echo "$seed,8,$(value no_memory_straight $run.eval),$(value no_memory_v $run.eval),$(value no_memory_back $run.eval),$(value no_memory_off $run.eval)" >>$out/table.csv
done
mv $out/table.csv figures/cross.csv
./df sample --task cross --out $out/1 --precision fp32 | tail -n 1
if command -v gnuplot >/dev/null; then gnuplot -e "csv='$out/1/cross.csv'; png='figures/cross.png'" figures/cross.gp; else echo "without gnuplot there is no figures/cross.png"; fi
