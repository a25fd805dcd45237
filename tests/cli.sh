#!/bin/sh
# tests/cli.sh SCRATCH: the programs as a user runs them. Training, resuming to the bit, sampling, evaluating, and what bad input gets: one clear line.
set -u
BUILD=${BUILD:-build}
dir=$1/cli
mkdir -p "$dir"
passed=0 failed=0
ok()   { passed=$((passed + 1)); }
fail() { failed=$((failed + 1)); echo "FAIL  $*"; }

# expect STATUS WORD COMMAND...: exits with STATUS, and prints WORD in exactly one line of stderr (none if STATUS is 0)
expect() {
    want=$1 word=$2; shift 2
    "$@" >"$dir/stdout" 2>"$dir/stderr"
    status=$?
    if [ $status -ne "$want" ]; then fail "$*: exit status $status, not $want: $(tail -n 2 "$dir/stderr")"; return; fi
    if [ "$want" = 0 ]; then ok; return; fi
    if [ "$(wc -l <"$dir/stderr")" -ne 1 ] || ! grep -q -- "$word" "$dir/stderr"; then fail "$*: '$(cat "$dir/stderr")' lacks '$word' or is not one line"; return; fi
    ok
}
says() { if grep -aq -- "$1" "$dir/stdout"; then ok; else fail "'$1' is not in the output: $(tail -n 3 "$dir/stdout")"; fi; }

# a small corpus and a small network; everything below takes seconds
cat README.md NOTES.md bd3lm.c common.h >"$dir/text"
net="--data $dir/text --layers 2 --width 24 --heads 3 --length 24 --block 4 --batch 4 --vocab 40 --cond 5"
train="./bd3lm train $net --warmup 8 --dropout 0.2 --seed 7"

# ---- train, stop, resume: the same file, byte for byte
expect 0 '' $train --steps 12 --out "$dir/whole"
says '^train: steps=12 loss=.* tokens_per_s=.* seconds='
expect 0 '' $train --steps 12 --out "$dir/again"
cmp -s "$dir/whole/bd3lm.safetensors" "$dir/again/bd3lm.safetensors" && ok || fail "two runs of one seed differ"
expect 0 '' $train --steps 12 --threads 1 --out "$dir/single"
cmp -s "$dir/whole/bd3lm.safetensors" "$dir/single/bd3lm.safetensors" && ok || fail "one thread and all threads differ"
expect 0 '' $train --steps 5 --out "$dir/part"
cmp -s "$dir/whole/bd3lm.safetensors" "$dir/part/bd3lm.safetensors" && fail "5 and 12 steps give the same file" || ok
expect 0 '' ./bd3lm train --resume --steps 12 --out "$dir/part"
cmp -s "$dir/whole/bd3lm.safetensors" "$dir/part/bd3lm.safetensors" && ok || fail "a resumed run differs from a run in one piece"
[ "$(wc -l <"$dir/part/log.csv")" -eq 13 ] && ok || fail "log.csv has not a header and 12 lines"
expect 0 '' $train --steps 12 --seed 8 --out "$dir/other"
cmp -s "$dir/whole/bd3lm.safetensors" "$dir/other/bd3lm.safetensors" && fail "another seed gives the same file" || ok
[ -z "$(ls "$dir/whole" | grep part)" ] && ok || fail "a temporary file is left over"
two=2; ./bd3lm check --threads 2 tests/golden/bd3lm/masks_L6_b2.safetensors >/dev/null 2>&1 || two=        # without OpenMP there is one
for threads in 1 $two; do
    expect 0 '' $train --steps 5 --threads $threads --force --out "$dir/part2"
    expect 0 '' ./bd3lm train --resume --steps 12 --threads $threads --out "$dir/part2"
    cmp -s "$dir/whole/bd3lm.safetensors" "$dir/part2/bd3lm.safetensors" && ok || fail "with $threads threads a resumed run differs from a run in one piece"
done

# ---- Ctrl-C, kill, kill -9: the checkpoint goes on as if nothing had happened, and the log has a line a step
step_of() { grep -ao '"step":"[0-9]*"' "$1" | grep -o '[0-9]*'; }
# start OPTIONS...: training into $dir/stopped, in the background; pid. until_exists FILE: waits for it
start() { rm -rf "$dir/stopped"; $train --steps 1000000 --out "$dir/stopped" "$@" >"$dir/stdout" 2>"$dir/stderr" & pid=$!; }
until_exists() { i=0; while [ $i -lt 1200 ] && ! [ -e "$1" ]; do sleep 0.05; i=$((i + 1)); done; }
# goes_on NAME: three steps more, from where $dir/stopped stands, against the same number in one piece
goes_on() {
    steps=$(($(step_of "$dir/stopped/bd3lm.safetensors") + 3))
    expect 0 '' ./bd3lm train --resume --steps $steps --save-every 0 --out "$dir/stopped"
    expect 0 '' $train --force --steps $steps --save-every 0 --out "$dir/again"
    cmp -s "$dir/stopped/bd3lm.safetensors" "$dir/again/bd3lm.safetensors" && ok || fail "after $1: a resumed run differs from a run in one piece"
    cut -d, -f1-3 "$dir/stopped/log.csv" >"$dir/one"; cut -d, -f1-3 "$dir/again/log.csv" | cmp -s - "$dir/one" && ok || fail "after $1: log.csv differs from that of a run in one piece"
}
for signal in INT TERM; do
    start --save-every 0
    until_exists "$dir/stopped/log.csv"
    sleep 0.2
    kill -$signal $pid; wait $pid && ok || fail "SIG$signal: exit status $?"
    says '^interrupted: saved .*--resume'
    printf 0 >>"$dir/stopped/log.csv"                   # half a line
    goes_on SIG$signal
done
start --save-every 5
until_exists "$dir/stopped/bd3lm.safetensors"
kill -9 $pid; wait $pid 2>/dev/null
[ $(($(step_of "$dir/stopped/bd3lm.safetensors") % 5)) -eq 0 ] && ok || fail "--save-every 5 saved at another step"
echo '999999,1,1,1' >>"$dir/stopped/log.csv"            # a step that the checkpoint does not hold
: >"$dir/stopped/bd3lm.safetensors.part"                # half a checkpoint
goes_on 'kill -9'
[ "$(ls "$dir/stopped" | tr '\n' ' ')" = 'bd3lm.safetensors log.csv ' ] && ok || fail "a run that was killed left something: $(ls "$dir/stopped")"

# ---- the verbs on what was trained
expect 0 '' ./bd3lm eval --out "$dir/whole"
says '^eval: split=test tokens=.* nats=.* ppl=.* bits_per_char='
expect 0 '' ./bd3lm eval --out "$dir/whole" --draws 2 --split train
# the three estimators, on a part and on a text of the command line (shorter than a window, and longer)
expect 0 '' ./bd3lm eval --out "$dir/whole" --estimator masks --draws 3
says '^eval: split=test tokens=.* stderr=[0-9.]* draw_stderr=0\.[0-9]* .* estimator=masks'
expect 0 '' ./bd3lm eval --out "$dir/whole" --estimator exact --text 'a word'
says '^eval: split=text tokens=[1-6] .* stderr=nan draw_stderr=0.0000 .* bits_per_char=.* total_nats=[1-9].* estimator=exact'
expect 0 '' ./bd3lm eval --out "$dir/whole" --draws 2 --batch 1 --text 'so many words that they do not fit into one window of this little network, not even as pairs of bytes'
says ' stderr=[0-9.]* draw_stderr=[0-9.]* '
expect 1 'levels, masks or exact' ./bd3lm eval --out "$dir/whole" --estimator best
expect 1 'nothing is drawn' ./bd3lm eval --out "$dir/whole" --estimator exact --draws 2
expect 1 'exclude each other' ./bd3lm eval --out "$dir/whole" --split test --text 'a word'
expect 1 'empty text' ./bd3lm eval --out "$dir/whole" --text ''
expect 0 '' $train --force --steps 3 --ema 0 --out "$dir/ema"
expect 0 '' ./bd3lm sample --out "$dir/ema" --nucleus 0 --chars 20
expect 0 '' ./bd3lm sample --out "$dir/whole" --samples 3 --chars 60 --quality
says '^sample: samples=3 characters=180 nfe=.* known_words=.* entropy=.* distinct2=.* longest_copy='
grep -av 'seconds=' "$dir/stdout" >"$dir/one"
expect 0 '' ./bd3lm sample --out "$dir/whole" --samples 3 --chars 60 --quality --threads 1
grep -av 'seconds=' "$dir/stdout" | sed 's/threads=1/threads=0/' >"$dir/two"
cmp -s "$dir/one" "$dir/two" && ok || fail "the same seed writes two texts"
expect 0 '' ./bd3lm sample --out "$dir/whole" --prompt 'the paper' --chars 40 --watch
says '^the paper'
says '░'
expect 0 '' ./bd3lm sample --out "$dir/whole" --prompt 'the <paper> & a very long line that has to be broken somewhere at a space, please' --chars 120 --animate "$dir/text.svg"
check_svg() { awk -v least="$2" '/^<svg /{ opened = 1 } /<g class="f"/ { frames++ } /@keyframes/ { timed++ } END { exit !(opened && frames >= least && timed == frames && $0 == "</svg>") }' "$1"; }
check_svg "$dir/text.svg" 10 && grep -q 'the &lt;paper> &amp; a very' "$dir/text.svg" && grep -q '░' "$dir/text.svg" && ok || fail "text.svg is no animation of the text"
# longer than the training window: positions go on, the cache is a ring, and a token costs (block + 1) * length key pairs at most, however long the text
for chars in 400 1600; do
    expect 0 '' ./bd3lm sample --out "$dir/whole" --chars $chars --nucleus 1
    pairs=$(sed -n 's/^sample: .* key_pairs_per_token=\([0-9]*\)\..*/\1/p' "$dir/stdout")
    [ "${pairs:-999}" -le 120 ] && [ "${pairs:-0}" -ge 100 ] && ok || fail "$chars characters: $pairs key pairs a token, not 100 to 120"
done
expect 0 '' ./bd3lm sample --out "$dir/whole" --sampler ancestral --sampling-steps 1 --chars 400
says ' nfe=[0-9]* forwards=[0-9]* '
expect 0 '' ./bd3lm sample --out "$dir/whole" --sampler ancestral --samples 3 --chars 100 --watch
expect 1 'first_hitting or ancestral' ./bd3lm sample --out "$dir/whole" --sampler gibbs
expect 1 'belongs to --sampler ancestral' ./bd3lm sample --out "$dir/whole" --sampling-steps 5
for objective in 'ar --block 1' 'bd3 --block 24' 'bd3 --block 1'; do
    expect 0 '' $train --force --steps 3 --objective $objective --out "$dir/kind"
    expect 0 '' ./bd3lm eval --out "$dir/kind" --split validation
    expect 0 '' ./bd3lm sample --out "$dir/kind" --chars 20 --samples 2 --prompt 'a word'
    case $objective in
    ar*) expect 1 'has no masks' ./bd3lm sample --out "$dir/kind" --sampler ancestral
         expect 1 'needs none' ./bd3lm eval --out "$dir/kind" --estimator masks
         expect 1 'nothing is drawn' ./bd3lm eval --out "$dir/kind" --draws 2
         expect 0 '' ./bd3lm eval --out "$dir/kind" --text 'a word'
         says '^eval: split=text tokens=[1-6] .* draw_stderr=0.0000 .* total_nats=[1-9].* estimator=likelihood' ;;
    *24) expect 1 'too many' ./bd3lm eval --out "$dir/kind" --estimator exact ;;
    *)   expect 0 '' ./bd3lm sample --out "$dir/kind" --chars 20 --samples 2 --prompt 'a word' --sampler ancestral --sampling-steps 9 ;;
    esac
done
expect 0 '' $train --force --steps 3 --charset text8 --vocab 0 --batch 2 --out "$dir/text8"
says 'V=29'
expect 0 '' ./bd3lm sample --out "$dir/text8" --chars 20 --prompt 'plain words'
expect 0 '' ./bd3lm sample --out "$dir/text8" --chars 20 --prompt 'Capital  Letters'
says '^capital letters'
expect 1 'its 9 bytes leave nothing to write of --chars 9' ./bd3lm sample --out "$dir/whole" --chars 9 --prompt 'the paper'
expect 1 "'4' is not a symbol of text8" ./bd3lm sample --out "$dir/text8" --prompt 'no 42'
expect 1 "not a symbol of text8" ./bd3lm sample --out "$dir/text8" --prompt 'café'
expect 1 "--text: '4' is not a symbol" ./bd3lm eval --out "$dir/text8" --text 'no 42'
expect 0 '' $train --force --steps 3 --threads 1 --warmup 0 --clip-grad 0 --dropout 0 --clip-min 1 --block 1 --vocab 0 --out "$dir/zero"
# next to nothing is ever masked
expect 0 '' $train --force --steps 4 --batch 1 --length 2 --block 1 --clip-max 0.01 --vocab 0 --out "$dir/nothing"
expect 0 '' $train --force --steps 3 --naive --out "$dir/plain"
expect 0 '' $train --steps 12 --precision bf16 --threads ${two:-1} --out "$dir/bf16"
says 'precision=bf16'
expect 0 '' $train --steps 12 --precision bf16 --threads 1 --out "$dir/bf16_1"
if cmp -s "$dir/bf16/bd3lm.safetensors" "$dir/bf16_1/bd3lm.safetensors"; then ok; else fail "bf16: 1 and 2 threads differ"; fi
expect 0 '' $train --steps 12 --precision fp32 --threads 1 --out "$dir/fp32"
if cmp -s "$dir/bf16/bd3lm.safetensors" "$dir/fp32/bd3lm.safetensors"; then fail "bf16 changes nothing"; else ok; fi
expect 1 'fp32, bf16 or auto' $train --steps 2 --precision half --out "$dir/half"
expect 0 '' ./bd3lm sample --out "$dir/whole" --samples 900 --chars 8
expect 0 '' ./bd3lm --help
# a small text yields fewer byte pairs than were asked for: what was learned is what the run says and keeps
expect 0 '' $train --force --steps 1 --vocab 50000 --out "$dir/few"
learned=$(sed -n 's/.*V=\([0-9]*\)$/\1/p' "$dir/stdout")
says " vocab=$((learned - 258)) "
expect 0 '' ./bd3lm sample --out "$dir/few" --chars 8
says " vocab=$((learned - 258)) "
expect 0 '' ./bd3lm train --help
says '--dropout'

# ---- a model can write without its text; a text that has changed is noticed
cp "$dir/text" "$dir/text2"
expect 0 '' ./bd3lm train --data "$dir/text2" --layers 1 --width 8 --heads 2 --vocab 0 --batch 1 --steps 2 --out "$dir/moved"
cp "$dir/text2" "$dir/text3"
expect 0 '' ./bd3lm train --resume --steps 3 --data "$dir/text3" --out "$dir/moved"
expect 1 'is not the text .*another place' ./bd3lm train --resume --steps 4 --data "$dir/two" --out "$dir/moved"
expect 0 '' ./bd3lm train --resume --steps 4 --data "$dir/text2" --out "$dir/moved"
echo more >>"$dir/text2"
expect 1 'is not the text that was trained on' ./bd3lm eval --out "$dir/moved"
expect 1 'is not the text that was trained on' ./bd3lm train --resume --steps 5 --out "$dir/moved"
expect 0 '' ./bd3lm eval --out "$dir/moved" --data "$dir/text"
rm "$dir/text2"
expect 0 '' ./bd3lm sample --out "$dir/moved" --chars 20
expect 1 'no such file' ./bd3lm sample --out "$dir/moved" --quality
expect 1 'standard output' sh -c './bd3lm eval --out "$1" >/dev/full' sh "$dir/whole"

# ---- NaN: training stops and names step and tensor, and writes nothing
cp -r "$dir/part" "$dir/nan"
$BUILD/poison "$dir/nan/bd3lm.safetensors" blocks.1.mlp.0.weight
cp "$dir/nan/bd3lm.safetensors" "$dir/before"
expect 1 'step 13: loss .*nan.*parameter blocks.1.mlp.0.weight' ./bd3lm train --resume --steps 20 --out "$dir/nan"
cmp -s "$dir/nan/bd3lm.safetensors" "$dir/before" && ok || fail "a run that failed changed the checkpoint"

# ---- an output directory in use: refused, also to a run that began before the directory was there; a killed run leaves no lock
start --save-every 5
until_exists "$dir/stopped/bd3lm.safetensors"
cp "$dir/stopped/bd3lm.safetensors" "$dir/before"
for how in --resume --force ''; do
    expect 1 'stopped is in use: another process trains there' timeout 20 $train $how --out "$dir/stopped"
done
[ $(($(step_of "$dir/stopped/bd3lm.safetensors"))) -ge $(($(step_of "$dir/before"))) ] && ok || fail "a refused run wrote"
expect 0 '' ./bd3lm sample --out "$dir/stopped" --chars 8
kill -9 $pid; wait $pid 2>/dev/null
expect 0 '' ./bd3lm train --resume --steps $(($(step_of "$dir/stopped/bd3lm.safetensors") + 1)) --out "$dir/stopped"
seq 100000 300000 | tr 0-9 a-j >"$dir/slow"              # a text whose byte pairs take a second to learn; meanwhile another run makes the directory
$train --data "$dir/slow" --vocab 100 --steps 3 --out "$dir/late" >"$dir/stdout" 2>"$dir/late-stderr" & pid=$!
sleep 0.1
mkdir "$dir/late"; cp "$dir/whole/bd3lm.safetensors" "$dir/late"
wait $pid && fail "a run overwrote what another had made meanwhile" || ok
grep -q 'is there already' "$dir/late-stderr" && cmp -s "$dir/whole/bd3lm.safetensors" "$dir/late/bd3lm.safetensors" && ok || fail "a run that came late: $(cat "$dir/late-stderr")"

# ---- a disk that is full: one line, the old checkpoint untouched, nothing left over
untouched() {
    [ "$(ls "$dir/full" | tr '\n' ' ')" = 'bd3lm.safetensors log.csv ' ] && ok || fail "left over: $(ls "$dir/full")"
    cmp -s "$dir/whole/bd3lm.safetensors" "$dir/full/bd3lm.safetensors" && ok || fail "a save that failed changed the checkpoint"
}
cp -r "$dir/whole" "$dir/full"
ln -s /dev/full "$dir/full/bd3lm.safetensors.part"
expect 1 'cannot write .*bd3lm.safetensors: No space left' ./bd3lm train --resume --steps 14 --out "$dir/full"
untouched
for blocks in 2 60 200; do                              # of 512 bytes, two of which clang's OpenMP library takes: within the header, in the middle, nearly complete
    expect 1 'cannot write .*bd3lm.safetensors: File too large' sh -c 'ulimit -f $1; ./bd3lm train --resume --steps 14 --out "$2"' sh $blocks "$dir/full"
    untouched
done
expect 1 'cannot write .*bd3lm.safetensors: No space left' sh -c 'ln -s /dev/full "$2/bd3lm.safetensors.part"; $1 --force --steps 14 --save-every 3 --out "$2"' sh "$train" "$dir/full"
[ "$(wc -l <"$dir/full/log.csv")" -eq 4 ] && ok || fail "a save on the way that failed did not end the training"
untouched
mkdir "$dir/log"; ln -s /dev/full "$dir/log/log.csv"
expect 1 'cannot write .*log.csv: No space left' $train --steps 12 --out "$dir/log"
cmp -s "$dir/whole/bd3lm.safetensors" "$dir/log/bd3lm.safetensors" && ok || fail "a log that cannot be written cost the checkpoint"
# a directory that may not be written; root may write anywhere, unless it gives its powers away
as_user=; [ "$(id -u)" -ne 0 ] || as_user='setpriv --bounding-set=-all --inh-caps=-all'
if $as_user true 2>/dev/null; then
    chmod 555 "$dir/full"; chmod 444 "$dir/full"/*
    expect 1 'cannot write .*: Permission denied' $as_user ./bd3lm train --resume --steps 14 --out "$dir/full"
    chmod 644 "$dir/full"/*
    expect 1 'cannot write .*safetensors.part: Permission denied' $as_user ./bd3lm train --resume --steps 14 --out "$dir/full"
    expect 1 'cannot make the directory' $as_user $train --steps 3 --out "$dir/full/below"
    chmod 755 "$dir/full"
    untouched
else echo "skipped: no setpriv to give root's powers away"
fi

# ---- bad input
expect 1 'directory is needed' ./bd3lm train --out ''
expect 2 'no verb' ./bd3lm tarin
expect 2 'has no option' ./bd3lm train --stepz 3
expect 2 'needs a value' ./bd3lm train --steps
expect 2 'whole number from 1' ./bd3lm train --batch 0
expect 2 'number from 0' ./bd3lm train --lr nan
expect 2 'whole number' ./bd3lm train --steps 1e99
expect 2 'what is' ./bd3lm train README.md
expect 2 'needs FILE' ./bd3lm check
expect 1 'does not divide' $train --block 5 --out "$dir/x"
expect 1 'do not divide' $train --heads 5 --out "$dir/x"
expect 1 'bd3 or ar' $train --objective gpt --out "$dir/x"
expect 1 'bytes or text8' $train --charset utf9 --out "$dir/x"
expect 1 'more than 100 million' $train --batch 1000000 --length 1000 --block 1000 --out "$dir/x"
expect 1 'is larger than' $train --clip-min 0.9 --clip-max 0.5 --out "$dir/x"
expect 1 'no such file' ./bd3lm train --data "$dir/none" --out "$dir/x"
expect 1 'not a regular file' ./bd3lm train --data "$dir" --out "$dir/x"
head -c 20 "$dir/text" >"$dir/short-text"
expect 1 'fewer than --length' ./bd3lm train --data "$dir/short-text" --vocab 0 --out "$dir/x"
mkfifo "$dir/pipe"
expect 1 'not a regular file' timeout 60 ./bd3lm train --data "$dir/pipe" --out "$dir/x"
expect 1 'new?line' ./bd3lm train --data 'new
line' --out "$dir/x"
: >"$dir/empty"; printf a >"$dir/one-byte"
expect 1 'too short' ./bd3lm train --data "$dir/empty" --out "$dir/x"
expect 1 'fewer than --length' ./bd3lm train --data "$dir/one-byte" --out "$dir/x"
expect 1 'is there already' $train --steps 12 --out "$dir/whole"
expect 1 'in the way' $train --out "$dir/text"
for change in '--width 32' '--lr 1' '--block 6' '--vocab 30' '--dropout 0' '--seed 8' '--objective ar' '--charset text8'; do
    expect 1 "trained with ${change% *} .*, not .*may change: steps data)" ./bd3lm train --resume --steps 20 $change --out "$dir/whole"
done
expect 0 '' ./bd3lm train --help
says 'resume .*steps, data (its place), save-every, threads, naive, device may change'
# altered NAME SED-SCRIPT: a checkpoint in $dir/altered with other words in its header
altered() { mkdir -p "$dir/altered"; LC_ALL=C sed "$1" "$dir/whole/bd3lm.safetensors" >"$dir/altered/bd3lm.safetensors"; }
altered 's/"program":"bd3lm"/"program":"acdit"/'
expect 1 'a checkpoint of acdit, not of bd3lm' ./bd3lm sample --out "$dir/altered"
altered 's/"program":"bd3lm"/"pr\\nram":"bd3lm"/'
expect 1 'not a checkpoint of bd3lm' ./bd3lm sample --out "$dir/altered"
altered 's/"width":"24"/"width":"21"/'
expect 1 'tensor .* has another shape than (.*,21)' ./bd3lm sample --out "$dir/altered"
expect 1 'tensor .* has another shape than (.*,21)' ./bd3lm train --resume --steps 20 --out "$dir/altered"
altered 's/"cond":"5"/"cond":"6"/'
expect 1 'tensor .*sigma_map.mlp.0.weight has another shape than (6,256)' ./bd3lm sample --out "$dir/altered"
altered 's/"width":"24"/"width":"25"/'
expect 1 '--heads 3 do not divide --width 25' ./bd3lm eval --out "$dir/altered"
altered 's/"vocab":"40"/"vocab":"41"/'
expect 1 'vocab.merges does not hold the 41 pairs' ./bd3lm sample --out "$dir/altered"
altered 's/"step":"12"/"step":"1x"/'
expect 1 "step '1x' is not possible" ./bd3lm sample --out "$dir/altered"
altered 's/"width":"24"/"wid\\n":"24"/'
expect 1 'the checkpoint does not say --width' ./bd3lm sample --out "$dir/altered"
altered 's/"charset":"bytes"/"charset":"b\\nes"/'
expect 1 '--charset b?es: bytes or text8' ./bd3lm sample --out "$dir/altered"
altered 's/"ema.output_layer.linear.bias"/"emo.output_layer.linear.bias"/'
expect 1 'tensor ema.output_layer.linear.bias is missing' ./bd3lm sample --out "$dir/altered"
expect 1 'has done its 12 steps' ./bd3lm train --resume --out "$dir/whole"
expect 1 'no checkpoint' ./bd3lm sample --out "$dir/x"
head -c 3000 "$dir/whole/bd3lm.safetensors" >"$dir/cut"; mkdir -p "$dir/short"; mv "$dir/cut" "$dir/short/bd3lm.safetensors"
expect 1 'longer than the file' ./bd3lm sample --out "$dir/short"
cores=$(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc)
if [ $two ]; then
    expect 0 '' ./bd3lm sample --out "$dir/whole" --chars 8 --threads $((cores + 1))
    [ "$(cat "$dir/stderr")" = "bd3lm: --threads $((cores + 1)) are more than the $cores cores: slower than one for each" ] && ok || fail "too many threads: $(cat "$dir/stderr")"
    expect 0 '' ./bd3lm sample --out "$dir/whole" --chars 8 --threads $cores
    [ -s "$dir/stderr" ] && fail "a warning without need: $(cat "$dir/stderr")" || ok
else expect 1 'knows one thread' ./bd3lm sample --out "$dir/whole" --threads 2
fi
expect 1 'cpu or cuda' ./bd3lm eval --out "$dir/whole" --device gpu
[ -e "$dir/x" ] && fail "a refused run made its --out" || ok

# ---- check refuses what it does not know, by name
for file in tests/golden/bd3lm/*.safetensors; do
    sh tests/supported.sh tests/golden/bd3lm | grep -q "$file" && continue
    ./bd3lm check "$file" >"$dir/stdout" 2>&1 && fail "$file passes" || ok
    says 'not supported: [a-z_]*='
done
./bd3lm check "$dir/text" >"$dir/stdout" 2>&1 && fail "check accepts a text" || ok
says 'not a safetensors file'
./bd3lm check "$dir/whole/bd3lm.safetensors" >"$dir/stdout" 2>&1 && fail "check accepts a checkpoint" || ok
says "of paper ''"

echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
