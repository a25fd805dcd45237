#!/bin/sh
# Planning in D4RL's umaze (the paper's Table 1, small): three networks, the same 200 episodes for every row of a seed, D4RL's v1 reference scores and 300 steps.
# The scale of the guidance was chosen for each matrix on other episodes (seed 900).      figures/umaze.sh && cat figures/umaze.csv
# Writes figures/umaze.csv: one line for each row and seed; the last two columns are the mean difference to the row "straight" over the same episodes, in points of the
# score, and its standard error. Two rows have no network: PD straight to the goal, and the controller that made the data.
set -eu
cd "$(dirname "$0")/.."
make -s df
out=out/umaze
mkdir -p $out
rm -f $out/*.line
value() { sed -n "s/^eval:.* $1=\([^ ]*\).*/\1/p" "$2"; }
row() {                                                 # row SEED MATRIX GUIDANCE FUTURES CONTROLLER
    file=$out/$1-$2-$3-$4-$5
    ./df eval --task maze2d --out $out/net$1 --samples "${EPISODES:-200}" --seed $((100 + $1)) --matrix "$2" --guidance "$3" --futures "$4" --controller "$5" --replan 20 --precision fp32 --threads 1 >$file
    cp $out/net$1/episodes.csv $file.csv
    gain=$(paste -d, $file.csv $out/$1-pyramid-0-1-straight.csv | awk -F, 'NR > 1 { d = $3 - $10; s += d; q += d * d; n++ } END { printf "%.2f,%.2f", s / n, sqrt((q / n - (s / n)^2) / (n - 1)) }')
    echo "$1,$2,$3,$4,$5,$(value return $file),$(value stderr $file),$(value score $file),$(value score_stderr $file),$(value reached $file),$(value first_reach $file),$(value return_if_stay $file),$(value wall_steps $file),$(value collisions $file),$gain" >$file.line
}
all() {
    ./df train --task maze2d --seed $1 --steps "${STEPS:-2000}" --batch 128 --lr 1e-3 --precision fp32 --threads 1 --out $out/net$1 --force >$out/net$1.train
    row $1 pyramid 0 1 straight
    row $1 pyramid 0 1 waypoints
    for futures in 1 4; do
        row $1 full_sequence 8 $futures pd
        row $1 pyramid 5 $futures pd
        row $1 pyramid 5 $futures actions
    done
    row $1 full_sequence 0 1 pd
    row $1 pyramid 0 1 pd
    row $1 pyramid 0 1 actions
}
all 1 & all 2 & wait
all 3
{ echo "seed,matrix,guidance,futures,controller,return,return_stderr,score,score_stderr,reached,first_reach,return_if_stay,wall_steps,collisions,gain,gain_stderr"; cat $out/*.line; } >figures/umaze.csv
awk -F, 'NR > 1 { k = $5 " " $2 " guidance " $3 " futures " $4; n[k]++; r[k] += $6; s[k] += $8; q[k] += $9^2; reached[k] += $10; first[k] += $11; wall[k] += $13; g[k] += $15; e[k] += $16^2 }
    END { for (k in n) printf "%-46s return %5.1f | score %5.1f +- %3.1f | straight %+6.1f +- %4.1f | reached %.2f | first reach %5.1f | wall steps %5.1f\n", k, r[k]/n[k], s[k]/n[k], sqrt(q[k])/n[k],
          g[k]/n[k], sqrt(e[k])/n[k], reached[k]/n[k], first[k]/n[k], wall[k]/n[k] }' figures/umaze.csv | sort
