# Frames of true and made videos, from what `./df sample --task video` writes:
#     gnuplot -e "sheet='out/df/video/video.png'; csv='out/df/video/video.csv'; png='out/video.png'" figures/video.gp
set datafile separator ','
stats csv skip 1 using 1 nooutput
last = STATS_max
edge(at) = int(system(sprintf("od -An -tu1 -j%d -N4 '%s' | awk '{ print ($1*256 + $2)*65536 + $3*256 + $4 }'", at, sheet)))      # width, height in a PNG's header
w = edge(16)
h = edge(20)
set terminal pngcairo size 1100,620 font 'Sans,11'
set output png
set multiplot
set lmargin at screen 0.09
set rmargin at screen 0.98
set tmargin at screen 0.92
set bmargin at screen 0.40
set title sprintf('bouncing sprites: true videos, and below each what is made from its first frames (20 frames of 0..%d)', last)
set xrange [0:20]
set yrange [0:8]
unset key
set xtics ('0' 0.5, sprintf('%d', last/4) 5.25, sprintf('%d', last/2) 10, sprintf('%d', 3*last/4) 14.75, sprintf('%d', last) 19.5)
set ytics ('true' 7.5, 'made' 6.5, 'true' 5.5, 'made' 4.5, 'true' 3.5, 'made' 2.5, 'true' 1.5, 'made' 0.5)
set xlabel 'frame'
plot sheet binary filetype=png origin=(0,0) dx=20.0/w dy=8.0/h using 1:2:3 with rgbimage
set tmargin at screen 0.27
set bmargin at screen 0.10
set title ''
set xrange [0:last]
set yrange [0:*]
set xtics auto
set ytics auto
set ylabel 'error of a frame'
plot csv skip 1 using 1:2 with lines lw 2 lc rgb '#1f77b4'
unset multiplot
