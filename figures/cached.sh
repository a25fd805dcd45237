#!/bin/sh
# What do blocks and their cache save? (Fig. 5, Table 6) Videos of 256, 1024 and 4096 tokens in N = 1 .. 16 blocks, four side by side, 5 steps a block, guidance: seconds for a
# video with the cache and without it, and the work counted beside the paper's formula. The network is not trained: that changes no time.      figures/cached.sh
# Writes figures/cached.csv (tokens,blocks,cached,seconds,gflop,gflop_paper) and, with gnuplot, figures/cached.png. Wants an idle machine.
set -eu
cd "$(dirname "$0")/.."
make -s acdit
out=out/cached
mkdir -p $out
value() { sed -n "s/^$1:.* $2=\([^ ]*\).*/\1/p" "$3"; }
echo "tokens,blocks,cached,seconds,gflop,gflop_paper" >$out/cached.csv
for frames in 4 16 64; do
    few="1 2 4"; [ $frames = 4 ] || few="1 2 4 8 16"
    ./acdit train --data video --size 32 --patch 4 --clip $frames --blocks "$(echo $few | tr ' ' ,)" --batch 1 --steps 1 --precision fp32 --out $out/$frames --force >$out/log
    for blocks in $few; do
        for how in "" --recompute; do
            best=1e9
            for repeat in 1 2 3; do
                ./acdit sample --out $out/$frames --samples 4 --class fall --batch 4 --sampling-steps 5 --sample-blocks "$blocks" --precision fp32 --cost $how >$out/log
                best=$(awk -v a="$best" -v b="$(value sample seconds $out/log)" 'BEGIN { print (a < b ? a : b) }')
            done
            echo "$((frames * 64)),$blocks,$([ "$how" ] && echo no || echo yes),$(awk "BEGIN { print $best / 4 }"),$(awk "BEGIN { print $(value cost counted $out/log) * 1e-9 }"),$(awk -v p="$(value cost paper $out/log)" 'BEGIN { print p == "" ? "" : p * 1e-9 }')" >>$out/cached.csv
        done
    done
done
mv $out/cached.csv figures/cached.csv
cat figures/cached.csv
if command -v gnuplot >/dev/null; then
    gnuplot <<'PLOT'
set terminal pngcairo size 1000,460 font 'Sans,11'
set output 'figures/cached.png'
set datafile separator ','
set multiplot layout 1,2
set logscale x 2
set logscale y
set xlabel 'blocks N (1: the whole sequence at once, DiT)'
set xtics (1, 2, 4, 8, 16)
set xrange [0.9:18]
set key outside below
curve(tokens, cached, column) = sprintf("< awk -F, '$1 == %d && $3 == \"%s\"' figures/cached.csv", tokens, cached)
color(t) = t eq '256' ? 1 : t eq '1024' ? 2 : 3
set ylabel 'seconds for a video'
plot for [t in '256 1024 4096'] curve(int(t), 'yes', 4) using 2:4 with linespoints lw 2 lc color(t) title t.' tokens, cached', for [t in '256 1024 4096'] curve(int(t), 'no', 4) using 2:4 with linespoints dt 2 lc color(t) title t.', recomputed'
set ylabel 'GFLOP for a video'
plot for [t in '256 1024 4096'] curve(int(t), 'yes', 5) using 2:5 with points pt 7 lc color(t) title t.' tokens, counted', for [t in '256 1024 4096'] curve(int(t), 'yes', 6) using 2:6 with lines lc color(t) title t.', formula'
unset multiplot
PLOT
fi
