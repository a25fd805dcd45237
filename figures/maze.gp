# Plans while they denoise, from what `./df sample --task maze2d` writes:      gnuplot -e "csv='out/df/maze2d/maze.csv'; png='out/maze.png'" figures/maze.gp
# Walls stand where the physics has them: the centre of the ball keeps a further 0.1 away from them.
plans = system('grep "^plan," '.csv.' | cut -d, -f2 | sort -n | tail -n 1') + 1
stages = system('grep "^plan," '.csv.' | cut -d, -f3 | sort -n | tail -n 1') + 0
if (plans > 4) plans = 4
cells = system('grep "^wall," '.csv.' | cut -d, -f6 | sort -n | tail -n 1') + 0
rows = system('grep "^wall," '.csv.' | cut -d, -f5 | sort -n | tail -n 1') + 0
set terminal pngcairo size 240*stages,250*plans + 60 font 'Sans,10'
set output png
set datafile separator ','
set xrange [-0.7:cells + 0.3]
set yrange [rows + 0.3:-0.7]
set size ratio -1
set style fill solid 1.0 noborder
set multiplot layout plans,stages title "plans through the maze while they denoise: near future first, far future last (blue: early steps, red: late ones; start black, goal green)"
set palette defined (0 '#2040ff', 1 '#ff2020')
unset colorbox
unset key
set xtics 1
set ytics 1
do for [p=0:plans-1] { do for [s=1:stages] {
    set title (p == 0 ? sprintf('%d %% of the schedule', 100 * s / stages) : '')
    set xlabel (p == plans - 1 ? 'y' : '')
    set ylabel (s == 1 ? 'x' : '')
    plot '< grep "^wall," '.csv using 6:5:(0.5):(0.5) with boxxyerror lc rgb '#b8b8b8', \
         '< grep "^plan,'.p.','.s.'," '.csv using 6:5:4 with lines lw 1.5 lc palette, \
         '< grep "^start,'.p.'," '.csv using 6:5 with points pt 7 ps 1.2 lc rgb 'black', \
         '< grep "^goal,'.p.'," '.csv using 6:5 with points pt 7 ps 1.4 lc rgb '#00a000'
} }
unset multiplot
