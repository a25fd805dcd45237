# Pictures of each class, and the way to one of each, from what `./acdit sample` writes:
#     gnuplot -e "dir='out/acdit'; png='out/acdit.png'; steps='out/acdit_steps.png'" figures/acdit.gp
set datafile separator ','
edge(file, at) = int(system(sprintf("od -An -tu1 -j%d -N4 '%s' | awk '{ print ($1*256 + $2)*65536 + $3*256 + $4 }'", at, file)))      # width, height in a PNG's header
csv = dir.'/classes.csv'
stats csv skip 1 using 1 nooutput
rows = STATS_records
name(r) = system(sprintf("awk -F, 'NR == %d { print $2 }' '%s'", r + 2, csv))
share(r) = system(sprintf("awk -F, 'NR == %d { if ($3 ~ /^[0-9.]+$/) printf \"%%.0f %%%%\", 100 * $3 }' '%s'", r + 2, csv))
unset key
unset xtics
set ytics scale 0
do for [which = 0:1] {
    sheet = dir.(which ? '/steps.png' : '/sheet.png')
    w = edge(sheet, 16)
    h = edge(sheet, 20)
    set terminal pngcairo size (which ? w + 110 : w + 170), h + 50 font 'Sans,11'
    set output which ? steps : png
    set lmargin at screen 95.0 / (which ? w + 110 : w + 170)
    set rmargin at screen (95.0 + w) / (which ? w + 110 : w + 170)
    set bmargin at screen 12.0 / (h + 50)
    set tmargin at screen (12.0 + h) / (h + 50)
    set xrange [0:w]
    set yrange [0:h]
    set title which ? 'one picture of each class: block after block, out of noise' : 'pictures of each class (right: share that the classifier gives to it)'
    unset ytics
    unset label
    set ytics scale 0
    do for [r = 0:rows - 1] {
        set label name(r) at screen 88.0 / (which ? w + 110 : w + 170), screen (12.0 + h - (r + 0.5) * h / rows) / (h + 50) right
        if (!which) { set label share(r) at screen (102.0 + w) / (w + 170), screen (12.0 + h - (r + 0.5) * h / rows) / (h + 50) left }
    }
    set format y ''
    plot sheet binary filetype=png origin=(0.5, 0.5) dx=1 dy=1 using 1:2:3 with rgbimage
}
