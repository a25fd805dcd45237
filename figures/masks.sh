#!/bin/sh
# The three masks and level patterns side by side, from the programs' own functions (figures/masks.c).      figures/masks.sh
# Writes figures/masks.svg.
set -eu
cd "$(dirname "$0")/.."
make -s build/cpu_kernels.o build/cpu_fast.o
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
which=0
for program in bd3lm df acdit; do
    which=$((which + 1))
    ${CC:-gcc} -std=gnu11 -O1 -fno-math-errno -fopenmp -DPROGRAM="\"../$program.c\"" -DWHICH=$which figures/masks.c build/cpu_kernels.o build/cpu_fast.o -o "$scratch/masks" -lm -lz
    "$scratch/masks" >"$scratch/$which"
done
awk '
    # panel number p at x: a square of `cell` for each row and key; rows and columns named by what they stand for
    function text(x, y, s, anchor, more) { printf "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\" %s>%s</text>\n", x, y, anchor, more, s }
    FNR == 1 { p++; row = 0; levels = 0; x = 30 + (p - 1) * 330; y = 96; cell = 20
               split("BD3-LM: text|Diffusion Forcing: any sequence|ACDiT: images, video", title, "|"); split("a level for each block, in (0, 1]: share of masks|a level for each token|a level for each block; clean blocks have none", what, "|")
               text(x, 22, title[p], "start", "font-weight=\"bold\" font-size=\"15\""); text(x, 40, what[p], "start", "fill=\"#555\"") }
    /^[#.]/ { n = length($0); row++
              for (j = 1; j <= n; j++) {
                  noisy = p == 1 ? j <= 6 : p == 2 ? 1 : j > 4
                  sees = substr($0, j, 1) == "#"
                  printf "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" fill=\"%s\" stroke=\"#fff\"/>\n", x + 16 + (j - 1) * cell, y + (row - 1) * cell, cell, cell, !sees ? "#eee" : noisy ? "#d9772b" : "#2b6cb0"
              }
              size[p] = row }
    /^[0-9]/ { for (i = 1; i <= NF; i++) {
                   tokens = 6 / NF; first = p == 1 ? 0 : p == 2 ? 0 : 4
                   grey = int(255 - 225 * $i)
                   printf "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"16\" fill=\"rgb(%d,%d,%d)\" stroke=\"#888\"/>\n", x + 16 + (first + (i - 1) * tokens) * cell, y - 30, tokens * cell, grey, grey, grey
                   text(x + 16 + (first + (i - 0.5) * tokens) * cell, y - 18, $i, "middle", sprintf("font-size=\"11\" fill=\"%s\"", $i > 0.55 ? "#fff" : "#000"))
               }
               if (p == 1) { text(x + 16 + 9 * cell, y - 18, "clean", "middle", "fill=\"#2b6cb0\"") }
               if (p == 3) { text(x + 16 + 2 * cell, y - 18, "clean", "middle", "fill=\"#2b6cb0\"") } }
    BEGIN { print "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"1010\" height=\"390\" font-family=\"sans-serif\" font-size=\"12\"><rect width=\"1010\" height=\"390\" fill=\"#fff\"/>" }
    END { text(30, 362, "Each row is a token that asks, each column a key. Orange: it sees a noisy token, blue: a clean one. Levels from 0, clean, to 1, noise.", "start", "fill=\"#555\"")
          text(30, 380, "Six tokens in blocks of two; in Diffusion Forcing every token has a level of its own, and noisy tokens are all there is.", "start", "fill=\"#555\""); print "</svg>" }
' "$scratch/1" "$scratch/2" "$scratch/3" >figures/masks.svg
echo "wrote figures/masks.svg"
