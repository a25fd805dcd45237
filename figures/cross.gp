# The cross (Fig. 7), from what `./df sample --task cross` writes:      gnuplot -e "csv='out/df/cross/cross.csv'; png='out/cross.png'" figures/cross.gp
set terminal pngcairo size 1080,400 font 'Sans,11'
set output png
set datafile separator ','
set xrange [-1.25:1.25]
set yrange [-1.25:1.25]
set size square
set xlabel 'x'
set ylabel 'y'
unset key
set multiplot layout 1,3
do for [panel=1:3] {
    kind = word('data memory no_memory', panel)
    set title word('"training data" "one plan: the network remembers" "short plans: it forgets at the centre"', panel)
    plot for [c=0:3] '< grep "^'.kind.'," '.csv.' | awk -F, -v c='.c.' "\$2 % 4 == c { if (\$2 != last) print \"\"; last = \$2; print }"' using 4:5 with lines lw 1.5 lc rgb word('#1f77b4 #d62728 #2ca02c #9467bd', c + 1), \
         '< grep "^'.kind.'," '.csv.' | awk -F, "\$3 == 0"' using 4:5 with points pt 7 ps 1 lc rgb 'black'
}
unset multiplot
