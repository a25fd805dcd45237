#!/bin/sh
# tests/cli_acdit.sh SCRATCH: acdit as a user runs it, on tiny networks. Pictures and videos train, resume to the bit, are made and judged; every choice runs; bad input gets
# one clear line. ACDIT=./acdit_debug runs all of it under sanitizers, on the fake device.
set -u
acdit=${ACDIT:-./acdit}
dir=$1/cli_acdit
mkdir -p "$dir"
. tests/cli_part.sh
# whole FILE: a PNG from its signature to its end
whole() { check "$1 is no PNG" [ "$(od -An -v -tx1 -N8 "$1" 2>/dev/null | tr -d ' \n')$(tail -c 8 "$1" 2>/dev/null | od -An -v -tx1 | tr -d ' \n')" = 89504e470d0a1a0a49454e44ae426082 ]; }

# bytes N...: these bytes
bytes() { for b in "$@"; do printf "\\$(printf %03o "$b")"; done; }
# idx DIR N CLASSES: N pictures of 8 x 8 pixels, of classes that are stripes of different widths, and their labels; a fifth as many for the test
idx() {
    mkdir -p "$1"
    for part in train t10k; do
        n=$2; [ $part = train ] || n=$(($2 / 5))
        { bytes 0 0 8 3 0 0 $((n / 256)) $((n % 256)) 0 0 0 8 0 0 0 8; awk -v n=$n -v classes="$3" 'BEGIN { for (i = 0; i < n; i++) for (p = 0; p < 64; p++) printf "\\\\%03o", int(p % 8 / (1 + i % classes)) % 2 * 200 + (i * 7 + p) % 50 }' | xargs printf '%b'; } >"$1/$part-images-idx3-ubyte"
        { bytes 0 0 8 1 0 0 $((n / 256)) $((n % 256)); awk -v n=$n -v classes="$3" 'BEGIN { for (i = 0; i < n; i++) printf "\\\\%03o", i % classes }' | xargs printf '%b'; } >"$1/$part-labels-idx1-ubyte"
    done
}
idx "$dir/stripes" 60 3
stripes=$dir/stripes/train-images-idx3-ubyte
check "the pictures have not 16 + 60*64 bytes" [ "$(wc -c <"$stripes")" -eq $((16 + 60*64)) ]

small="--precision fp32 --width 32 --heads 2 --layers 2 --batch 4 --warmup 2 --seed 3"
pictures="--data $stripes --patch 8 $small"
video="--data video --patch 4 --size 12 --clip 4 $small"
quick="--samples 1 --sampling-steps 3"
two=2; $acdit check --threads 2 tests/golden/acdit/mask_n1_b5.safetensors >/dev/null 2>&1 || two=1        # without OpenMP there is one

# ---- the same file from one run, from two, and from one and two threads; naive kernels
# trained NAME OPTIONS...
trained() {
    out=$dir/$1; shift
    expect 0 '' $acdit train "$@" --steps 6 --threads 1 --out "$out"
    promises train steps loss parameters pictures_per_s seconds
    expect 0 '' $acdit train "$@" --steps 6 --threads $two --save-every 2 --out "$out.again"
    same "$out/acdit.safetensors" "$out.again/acdit.safetensors" "$out: two runs of one seed differ"
    timeout -s INT 100 $acdit train "$@" --steps 6 --save-every 3 --out "$out.part" >/dev/null 2>&1
    same "$out/acdit.safetensors" "$out.part/acdit.safetensors" "$out: another number of checkpoints changes the result"
    expect 0 '' $acdit train "$@" --decay 0 --steps 3 --out "$out.half"
    expect 0 '' $acdit train "$@" --decay 0 --steps 6 --out "$out.full"
    expect 0 '' $acdit train --resume --steps 6 --precision fp32 --out "$out.half"
    same "$out.full/acdit.safetensors" "$out.half/acdit.safetensors" "$out: a resumed run differs from a run in one piece"
    expect 0 '' $acdit train "$@" --steps 6 --seed 4 --out "$out.other"
    other "$out/acdit.safetensors" "$out.other/acdit.safetensors" "$out: another seed gives the same file"
    expect 0 '' $acdit train "$@" --steps 6 --naive --out "$out.naive"
    check "$out: plain kernels have other losses" sh -c 'paste -d, "$1" "$2" | awk -F, "NR > 1 { n++; good += \$2 - \$6 <= 1e-4 * \$6 && \$6 - \$2 <= 1e-4 * \$6 } END { exit !(n == 6 && good == n) }"' sh "$out/log.csv" "$out.naive/log.csv"
}
trained pictures $pictures --blocks 1,4,16
trained video $video --blocks 2
keys="pictures blocks steps passes gflop_per_picture pictures_per_s seconds"
laws="class_accuracy frame_error position_error velocity objects"

png=1; $acdit sample --out "$dir/pictures" $quick >/dev/null 2>"$dir/stderr" || ! grep -q 'built without stb_image_write' "$dir/stderr" || png=
if [ $png ]; then
    # made NAME OPTIONS...: the same seed makes the same pictures, with any number of threads; another one others
    made() {
        out=$dir/$1; shift
        expect 0 '' $acdit sample --out "$out" "$@" --threads 1
        cp "$out/sheet.png" "$dir/one.png"
        whole "$out/sheet.png"; whole "$out/steps.png"
        expect 0 '' $acdit sample --out "$out" "$@" --seed 9
        other "$out/sheet.png" "$dir/one.png" "$out $*: another seed makes the same pictures"
        expect 0 '' $acdit sample --out "$out" "$@" --threads $two
        same "$out/sheet.png" "$dir/one.png" "$out $*: the same seed makes other pictures"
    }
    made pictures $quick
    promises sample $keys
    says 'pictures=10 blocks=16 steps=3 passes=144 '                             # three batches of the ten classes
    check "classes.csv" [ "$(head -n 1 "$dir/pictures/classes.csv") $(wc -l <"$dir/pictures/classes.csv")" = 'class,name,accuracy 11' ]
    for blocks in 1 4; do made pictures $quick --sample-blocks $blocks; says " blocks=$blocks "; done
    for solver in dpmpp ddim ddpm; do made pictures $quick --solver $solver --sample-blocks 4; done
    made pictures --samples 2 --class 1 --steps-per-block 4,2 --guidance 3 --sample-blocks 4 --batch 2
    says 'pictures=2 blocks=4 steps=4 passes=10 '
    $acdit sample --out "$dir/pictures" $quick --sample-blocks 4 >/dev/null; cp "$dir/pictures/sheet.png" "$dir/one.png"
    expect 0 '' $acdit sample --out "$dir/pictures" $quick --sample-blocks 4 --guidance 1
    other "$dir/pictures/sheet.png" "$dir/one.png" 'guidance has no effect'
    expect 0 '' $acdit sample --out "$dir/pictures" $quick --sample-blocks 4 --recompute
    expect 0 '' $acdit sample --out "$dir/pictures" $quick --sample-blocks 4 --cost
    says ' saved by blocks: [1-9]'
    check "the formula is not what was counted: $(grep '^cost' "$dir/stdout")" sh -c 'grep "^cost: " "$1" | sed "s/.* counted=\([0-9]*\) formula=\([0-9]*\) .*/\1 \2/" | awk "{ good = \$1 == \$2 && \$1 > 0 } END { exit !good }"' sh "$dir/stdout"
    expect 0 '' $acdit sample --out "$dir/pictures" --samples 1 --class 2 --sampling-steps 2 --sample-blocks 4 --frames "$dir/frames" --watch
    check "not a picture after every step: $(ls "$dir/frames" | wc -l)" [ "$(ls "$dir/frames" | tr '\n' ' ')" = '00000.png 00001.png 00002.png 00003.png 00004.png 00005.png 00006.png 00007.png ' ]
    whole "$dir/frames/00007.png"
    says '^block 3, step 2'
    expect 0 '' $acdit sample --out "$dir/pictures" --samples 1 --sampling-steps 20 --sample-blocks 4 --animate "$dir/pictures.svg"
    check "pictures.svg is no animation of 40 frames: $(grep -c '<g class="f"' "$dir/pictures.svg")" [ "$(grep -c '<image' "$dir/pictures.svg") $(grep -c '@keyframes' "$dir/pictures.svg") $(tail -n 1 "$dir/pictures.svg")" = '40 40 </svg>' ]
    grep -o 'base64,[^"]*' "$dir/pictures.svg" | head -n 1 | cut -d, -f2 | base64 -d >"$dir/frame.png" 2>/dev/null
    whole "$dir/frame.png"
    expect 0 '' $acdit sample --out "$dir/pictures" $quick --sample-blocks 4 --frames "$dir/both" --animate "$dir/both.svg"
    check "frames of two sizes" [ "$(for f in "$dir"/both/*.png; do od -An -v -tx1 -j16 -N8 "$f"; done | sort -u | wc -l)" -eq 1 ]
    expect 0 '' $acdit sample --out "$dir/video" $quick --animate "$dir/video.svg"
    check "a video does not play" [ "$(grep -c '<image' "$dir/video.svg")" -eq $((2*3 + 4)) ]
    made video $quick
    promises sample $keys $laws
    made video $quick --length 8 --class fall --cost
    says 'pictures=1 blocks=4 '
    says '^cost: blocks=4 counted=[0-9]*$'
fi

# ---- the classifier, and judging
expect 0 '' $acdit classify --data "$stripes" --epochs 200 --classifier "$dir/judge" --seed 3 --precision fp32
promises classify steps loss test_pictures test_accuracy seconds
says ' test_pictures=12 test_accuracy=1.0000 '
expect 0 '' $acdit eval --out "$dir/pictures" --samples 2 --sampling-steps 2 --sample-blocks 4 --classifier "$dir/judge"
says '^true pictures in the place of made ones: frechet='
check "blocks.csv: $(head -n 1 "$dir/pictures/blocks.csv")" sh -c '! grep -q made "$1"' sh "$dir/pictures/blocks.csv"
expect 0 '' $acdit eval --out "$dir/pictures" --samples 2 --sampling-steps 2 --sample-blocks 4 --classifier "$dir/judge" --exposure
check "blocks.csv: $(head -n 1 "$dir/pictures/blocks.csv")" grep -q ',made,made_stderr,made_more,' "$dir/pictures/blocks.csv"
promises eval pictures blocks steps loss true_below_other frechet class_accuracy precision recall pictures_per_s seconds
check "blocks.csv has not a row for each block" [ "$(wc -l <"$dir/pictures/blocks.csv")" -eq 5 ]
[ -z $png ] || { expect 0 '' $acdit sample --out "$dir/pictures" $quick --sample-blocks 4 --classifier "$dir/judge"; promises sample $keys class_accuracy; }
expect 0 '' $acdit eval --out "$dir/video" --samples 1 --sampling-steps 2
promises eval pictures blocks steps loss true_below_other $laws pictures_per_s seconds

# ---- what else there is to choose
expect 0 '' $acdit train $pictures --blocks 4 --context noised --steps 3 --out "$dir/noised"
expect 0 '' $acdit eval --out "$dir/noised" --samples 1 --sampling-steps 2 --classifier "$dir/judge"
promises eval pictures blocks steps loss frechet class_accuracy precision recall pictures_per_s seconds
expect 0 '' $acdit eval --out "$dir/pictures" --samples 1 --batch 1 --sampling-steps 2 --sample-blocks 1 --classifier "$dir/judge"
promises eval pictures blocks steps loss frechet class_accuracy precision recall pictures_per_s seconds
expect 1 'batch 100000 times' $acdit train --data video --batch 100000 --clip 1000 --size 32 --blocks 4 --out "$dir/none"
expect 1 'are more than a million' $acdit eval --out "$dir/pictures" --samples 1000000
expect 1 'exposure: a network of --context noised' $acdit eval --out "$dir/noised" --exposure
expect 1 'samples 3: 3 pictures are too few' $acdit eval --out "$dir/pictures" --samples 3 --class 1
expect 0 '' $acdit train $pictures --blocks 4 --rope code --steps 3 --out "$dir/coded"
other "$dir/coded/log.csv" "$dir/pictures/log.csv" '--rope code has no effect'
expect 0 '' $acdit train $video --blocks 2 --rope code --steps 3 --out "$dir/coded_video"
expect 0 '' $acdit train $video --blocks 12 --steps 2 --out "$dir/parts"           # parts of a frame
expect 0 '' $acdit train $pictures --blocks 1,4,16 --cost --out "$dir/none"
check "a forward pass: the formula is not what was counted" sh -c 'grep "^cost: " "$1" | sed "s/.* counted=\([0-9]*\) formula=\([0-9]*\)/\1 \2/" | awk "{ n++; good += \$1 == \$2 && \$1 > 0 } END { exit !(n == 3 && good == 3) }"' sh "$dir/stdout"
check '--cost has written something' [ ! -e "$dir/none" ]

# ---- bad input: one line, and nothing is written
no() { word=$1; shift; expect 1 "$word" "$@"; check "$*: something was written" [ ! -e "$dir/none" ]; }
no 'nothing: No such file' $acdit train --data "$dir/nothing" --out "$dir/none"
no 'blocks 5: of 1 x 4 x 4 patches, 5 blocks do not divide' $acdit train $pictures --blocks 5 --out "$dir/none"
no 'blocks 8: of 1 x 4 x 4 patches, 8 blocks are no grid of squares' $acdit train $pictures --blocks 8 --out "$dir/none"
no 'blocks 8: of 4 x 3 x 3 patches, 8 blocks do not divide' $acdit train $video --blocks 8 --out "$dir/none"
no 'blocks 3: of 4 x 3 x 3 patches, 3 blocks are neither' $acdit train $video --blocks 3 --out "$dir/none"
no 'blocks 4,x: up to' $acdit train $pictures --blocks 4,x --out "$dir/none"
no 'blocks 0: up to' $acdit train $pictures --blocks 0 --out "$dir/none"
no 'patch 5 does not divide the 32 pixels' $acdit train --data "$stripes" --patch 5 --out "$dir/none"
no 'heads 5 do not divide --width 32' $acdit train $pictures --blocks 4 --heads 5 --out "$dir/none"
no 'context none: clean or noised' $acdit train $pictures --blocks 4 --context none --out "$dir/none"
no 'heads 16: heads of 2 elements have no room' $acdit train $pictures --blocks 4 --heads 16 --out "$dir/none"
no 'heads 4: heads of 8 elements have no room' $acdit train $video --blocks 2 --heads 4 --out "$dir/none"
no 'context dirty: clean or noised' $acdit train $pictures --blocks 4 --context dirty --out "$dir/none"
no 'rope 1d: paper or code' $acdit train $pictures --blocks 4 --rope 1d --out "$dir/none"
no 'clip belongs to --data video' $acdit train $pictures --blocks 4 --clip 4 --out "$dir/none"
mkdir -p "$dir/bad"
cp "$dir"/stripes/* "$dir/bad"; bytes 0 0 8 4 | dd of="$dir/bad/train-images-idx3-ubyte" conv=notrunc 2>/dev/null
no 'train-images-idx3-ubyte' $acdit train --data "$dir/bad/train-images-idx3-ubyte" --out "$dir/none"
cp "$dir"/stripes/* "$dir/bad"; bytes 10 | dd of="$dir/bad/train-labels-idx1-ubyte" bs=1 seek=20 conv=notrunc 2>/dev/null
no 'label' $acdit train --data "$dir/bad/train-images-idx3-ubyte" --out "$dir/none"
cp "$dir"/stripes/* "$dir/bad"; rm "$dir/bad/train-labels-idx1-ubyte"
no 'labels-idx1' $acdit train --data "$dir/bad/train-images-idx3-ubyte" --out "$dir/none"
if command -v gzip >/dev/null; then
    cp "$dir"/stripes/* "$dir/bad"; gzip -9 "$dir/bad/train-images-idx3-ubyte"; head -c 300 "$dir/bad/train-images-idx3-ubyte.gz" >"$dir/bad/cut.train-images-idx3-ubyte.gz"
    expect 1 'cut.train-images' $acdit train --data "$dir/bad/cut.train-images-idx3-ubyte.gz" --out "$dir/none"
fi
no "out '': the name of a directory" $acdit train $pictures --blocks 4 --out ''
no 'nowhere/classifier.safetensors is not there' $acdit sample --out "$dir/pictures" --classifier nowhere
no 'a model stands there' $acdit classify --data "$stripes" --classifier "$dir/pictures" --force
no 'no checkpoint' $acdit sample --out "$dir/none"
no 'no checkpoint' $acdit eval --out "$dir/none"
no 'no checkpoint' $acdit train --resume --out "$dir/none"
expect 1 'is there already' $acdit train $pictures --blocks 4 --out "$dir/pictures"
expect 1 'has done its 6 steps' $acdit train --resume --precision fp32 --steps 6 --out "$dir/pictures"
expect 1 'is there already' $acdit classify --data "$stripes" --classifier "$dir/judge"
expect 1 'data video: no classifier is needed' $acdit classify --data video --classifier "$dir/none"
p="$acdit sample --out $dir/pictures"
expect 1 'class 10: 0 to 9, or one of' $p --class 10
expect 1 'class shoe: 0 to 9, or one of' $p --class shoe
expect 1 'sample-blocks 3: of 1 x 4 x 4 patches' $p --sample-blocks 3
expect 1 'solver euler: dpmpp, ddim or ddpm' $p --solver euler
expect 2 'sampling-steps 0' $p --sampling-steps 0
expect 1 'steps-per-block 3,0: up to 64 whole numbers from 1' $p --steps-per-block 3,0
expect 1 'dpmpp takes at most 999 steps' $p --steps-per-block 1000
expect 1 'exclude each other' $p --steps-per-block 3 --sampling-steps 3
expect 1 'length 5 belongs to --data video' $p --length 5
expect 1 'length 5: blocks of 2 frames' $acdit sample --out "$dir/video" --length 5
expect 1 'rope code cannot slide' $acdit sample --out "$dir/coded_video" --length 8
expect 1 'recompute and --length 8' $acdit sample --out "$dir/video" --length 8 --recompute
expect 1 'guidance 2: with --context noised' $acdit sample --out "$dir/noised" --guidance 2
mkdir -p "$dir/wrong"; cp tests/golden/acdit/mask_n1_b5.safetensors "$dir/wrong/classifier.safetensors"
expect 1 'not a checkpoint of acdit' $acdit sample --out "$dir/noised" --classifier "$dir/wrong"
cp "$dir/video/acdit.safetensors" "$dir/wrong/classifier.safetensors"
expect 1 'a classifier of pictures with edge=12, not 32' $acdit sample --out "$dir/noised" --classifier "$dir/wrong"
mkdir -p "$dir/fashion"; cp "$dir"/stripes/* "$dir/fashion"
$acdit classify --data "$dir/fashion/train-images-idx3-ubyte" --epochs 1 --classifier "$dir/wrong" --force >/dev/null 2>&1
expect 1 'a classifier of T-shirt,.*, not of 0,1,2' $acdit sample --out "$dir/noised" --classifier "$dir/wrong"
expect 1 'length 2: a motion shows in 4 frames' $acdit sample --out "$dir/video" --length 2
expect 1 'video/acdit.safetensors was trained on video' $acdit eval --out "$dir/video" --data "$stripes"
expect 2 'no option' $acdit sample --steps 3
expect 2 'needs FILE' $acdit check
$acdit train $pictures --blocks 4 --width 16 --steps 1 --out "$dir/wider" >/dev/null 2>&1
mkdir -p "$dir/mixed"; cp "$dir/wider/acdit.safetensors" "$dir/mixed/acdit.safetensors"
expect 1 'trained with --width 16, not 32' $acdit train --resume --steps 9 --precision fp32 --width 32 --out "$dir/mixed"
expect 1 'nothing: No such file' $acdit train --resume --steps 9 --precision fp32 --data "$dir/data/nothing" --out "$dir/mixed"
idx "$dir/others" 50 3
expect 1 'not the pictures that were trained on' $acdit train --resume --steps 9 --precision fp32 --data "$dir/others/train-images-idx3-ubyte" --out "$dir/mixed"
cp -r "$dir/stripes" "$dir/moved"
expect 0 '' $acdit train --resume --steps 2 --precision fp32 --data "$dir/moved/train-images-idx3-ubyte" --out "$dir/mixed"
cp "$dir/judge/classifier.safetensors" "$dir/mixed/acdit.safetensors"
expect 1 'tensor ema.x_embedder.weight is missing' $acdit sample --out "$dir/mixed" --samples 1
check "left over: $(ls "$dir/pictures")" [ "$(ls "$dir/pictures" | grep -c part)" -eq 0 ]
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
