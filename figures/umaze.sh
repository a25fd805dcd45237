#!/bin/sh
# Planning in D4RL's umaze (the paper's Table 1, small): three networks, the same 32 episodes for every row of a seed, D4RL's v1 reference scores and 300 steps.
#     figures/umaze.sh && cat figures/umaze.csv
# Writes figures/umaze.csv: one line for each row and seed. The two rows without a network: PD straight to the goal, and the controller that made the data.
set -eu
cd "$(dirname "$0")/.."
make -s df
out=out/umaze
mkdir -p $out
rm -f $out/*.line
value() { sed -n "s/^eval:.* $1=\([^ ]*\).*/\1/p" "$2"; }
row() {                                                 # row SEED MATRIX GUIDANCE FUTURES CONTROLLER
    file=$out/$1-$2-$3-$4-$5
    ./df eval --task maze2d --out $out/net$1 --samples "${EPISODES:-32}" --seed $((100 + $1)) --matrix "$2" --guidance "$3" --futures "$4" --controller "$5" --precision fp32 --threads 1 >$file
    echo "$1,$2,$3,$4,$5,$(value return $file),$(value stderr $file),$(value score $file),$(value score_stderr $file),$(value reached $file),$(value first_reach $file),$(value wall_steps $file),$(value collisions $file)" >$file.line
}
all() {
    [ -s $out/net$1/df.safetensors ] || ./df train --task maze2d --seed $1 --steps "${STEPS:-2000}" --batch 128 --lr 1e-3 --precision fp32 --threads 1 --out $out/net$1 --force >$out/net$1.train
    row $1 pyramid 0 1 straight
    row $1 pyramid 0 1 waypoints
    for matrix in full_sequence pyramid; do
        row $1 $matrix 0 1 pd
        row $1 $matrix "${GUIDANCE:-3}" 1 pd
        row $1 $matrix "${GUIDANCE:-3}" 4 pd
    done
    for guidance in "0 1" "${GUIDANCE:-3} 1" "${GUIDANCE:-3} 4"; do row $1 pyramid $guidance actions; done
}
all 1 & all 2 & wait
all 3
{ echo "seed,matrix,guidance,futures,controller,return,return_stderr,score,score_stderr,reached,first_reach,wall_steps,collisions"; cat $out/*.line; } >figures/umaze.csv
awk -F, 'NR > 1 { k = $5 " " $2 " guidance " $3 " futures " $4; n[k]++; sum[k] += $8; square[k] += $9^2; reached[k] += $10; first[k] += $11; wall[k] += $12 }
    END { for (k in n) printf "%-50s score %6.1f +- %4.1f | reached %.2f | first reach %5.1f | wall steps %5.1f\n", k, sum[k]/n[k], sqrt(square[k])/n[k], reached[k]/n[k], first[k]/n[k], wall[k]/n[k] }' figures/umaze.csv | sort
