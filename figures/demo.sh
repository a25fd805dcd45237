#!/bin/sh
# The pictures of `make demo`: what `./df sample` has left in out/demo-cross, out/demo-maze and out/demo-video, and `./acdit sample` in out/demo-acdit, with axes, titles and names where gnuplot is installed,
# otherwise as df itself draws them      figures/demo.sh
set -eu
cd "$(dirname "$0")/.."
if command -v gnuplot >/dev/null; then
    gnuplot -e "csv='out/demo-cross/cross.csv'; png='out/cross.png'" figures/cross.gp
    gnuplot -e "csv='out/demo-maze/maze.csv'; png='out/maze.png'" figures/maze.gp
    gnuplot -e "sheet='out/demo-video/video.png'; csv='out/demo-video/video.csv'; png='out/video.png'" figures/video.gp
    gnuplot -e "dir='out/demo-acdit'; png='out/acdit.png'; steps='out/acdit_steps.png'" figures/acdit.gp
else
    cp out/demo-cross/cross.png out/demo-maze/maze.png out/demo-video/video.png out/
    cp out/demo-acdit/sheet.png out/acdit.png
    cp out/demo-acdit/steps.png out/acdit_steps.png
    echo "without gnuplot the pictures have no axes (make setup installs it)"
fi
echo "look at out/cross.png (what a memory is for), out/maze.png (plans that denoise from near to far) and out/video.png (videos ten times as long as those seen in training),
 out/acdit.png (pictures of each class) and out/acdit_steps.png (how they come, block by block)"
