#!/bin/sh
# tests/cli_df.sh SCRATCH: df as a user runs it, on tiny networks. Every task trains, resumes to the bit, samples and is measured; every choice runs; bad input gets one
# clear line. DF=./df_debug runs all of it under sanitizers, on the fake device.
set -u
BUILD=${BUILD:-build} df=${DF:-./df}
dir=$1/cli_df
mkdir -p "$dir"
. tests/cli_part.sh
# table FILE HEADER ROWS [TEXT]: a header, ROWS rows as long as it, all finite numbers but the first TEXT columns
table() {
    check "$1 is no table of $3 rows below $2" awk -F, -v header="$2" -v rows="$3" -v text="${4:-0}" '
        NR == 1 { bad = $0 != header; n = NF } NR > 1 { if (NF != n) bad = 1; for (i = text + 1; i <= NF; i++) if ($i !~ /^-?[0-9]+(\.[0-9]+)?$/) bad = 1 } END { exit bad || NR != rows + 1 }' "$1"
}
# plans FILE PLANS STEPS: walls, a start and a goal for each plan, five stages of it
plans() {
    check "$1: a kind of row is missing, or there are too many" awk -F, -v n="$2" -v steps="$3" 'NR == 1 { bad = $0 != "kind,plan,stage,t,x,y"; next }
        { k[$1]++; if (NF != 6 || $5 !~ /^-?[0-9.]+$/ || $6 !~ /^-?[0-9.]+$/) bad = 1 } END { exit bad || !k["wall"] || k["start"] != n || k["goal"] != n || k["plan"] != 5*n*steps || NR != 1 + k["wall"] + 2*n + k["plan"] }' "$1"
}
# picture FILE [WIDTHxHEIGHT]: a whole PNG: signature, header, and the end where the file ends
picture() {
    head=$(od -An -v -tx1 -N24 "$1" 2>/dev/null | tr -d ' \n') end=$(tail -c 12 "$1" 2>/dev/null | od -An -v -tx1 | tr -d ' \n')
    [ "${head%????????????????} $end" = '89504e470d0a1a0a0000000d49484452 0000000049454e44ae426082' ] || { fail "$1 is no PNG: $head $end"; return; }
    size=${head#????????????????????????????????}
    check "$1 has not the size ${2:-}" [ "${2:-}" = '' -o "$((0x${size%????????}))x$((0x${size#????????}))" = "${2:-}" ]
}
# draws OPTIONS...: df sample OPTIONS, which wants stb_image_write for its picture
png=1
draws() { if [ $png ]; then expect 0 '' $df sample "$@"; else expect 1 'built without stb_image_write' $df sample "$@"; fi; }
last_draws() { [ -z $png ] || promises "$@"; }
# near A B BOUND: the losses of two logs, step by step; false for a NaN, or if they have not the same steps
near() { paste -d, "$1" "$2" | awk -F, -v bound="$3" 'NR > 1 { n++; good += $1 == $5 && $2 - $6 <= bound * $6 && $6 - $2 <= bound * $6 } END { exit !(n > 0 && good == n) }'; }

# a series of two columns with dates, and of one without
awk 'BEGIN { print "date,a,b"; for (i = 0; i < 300; i++) printf "%04d-%02d-%02d,%.3f,%.3f\n", 2000 + int(i/336), 1 + int(i/28) % 12, 1 + i % 28, 3 + sin(i/3), 2 + cos(i/5) + i % 7 / 9 }' >"$dir/series.csv"

small="--precision fp32 --levels 30 --width 8 --state 8 --level-width 4 --layers 1 --heads 2 --batch 4 --warmup 2 --seed 3"
cross="--task cross $small --tokens 6 --lr 0.03 --ema 0.5"
maze="--task maze2d $small --tokens 4 --frames 2 --data-steps 2000"
video="--task video $small --tokens 5 --size 8 --context 2"
series="--task series $small --cells 2 --tokens 6 --context 3 --csv $dir/series.csv"
quick="--sampling-steps 5 --samples 2"

# ---- each task: the same file from one run, from two and from one and two threads; naive kernels; samples; measures
two=2; $df check --threads 2 tests/golden/df/df_schedule_linear_50.safetensors >/dev/null 2>&1 || two=1        # without OpenMP there is one
# trained NAME OPTIONS...
trained() {
    name=$1; shift
    out=$dir/$name
    expect 0 '' $df train "$@" --steps 6 --out "$out"
    promises train task steps loss parameters sequences_per_s seconds
    expect 0 '' $df train "$@" --steps 6 --threads $two --save-every 2 --out "$out.again"
    same "$out/df.safetensors" "$out.again/df.safetensors" "$name: two runs of one seed differ"
    expect 0 '' $df train "$@" --steps 3 --out "$out.part" --threads 1
    other "$out/df.safetensors" "$out.part/df.safetensors" "$name: 3 and 6 steps give the same file"
    expect 0 '' $df train --resume --steps 6 --precision fp32 --out "$out.part" --threads 1
    same "$out/df.safetensors" "$out.part/df.safetensors" "$name: a resumed run differs from a run in one piece"
    cut -d, -f1-3 "$out/log.csv" >"$dir/one"; cut -d, -f1-3 "$out.part/log.csv" >"$dir/two"
    same "$dir/one" "$dir/two" "$name: a resumed run has another log"
    expect 0 '' $df train "$@" --steps 6 --seed 4 --out "$out.other"
    other "$out/df.safetensors" "$out.other/df.safetensors" "$name: another seed gives the same file"
    expect 0 '' $df train "$@" --steps 6 --naive --out "$out.naive"
    table "$out/log.csv" step,loss,grad_norm,seconds 6
    check "$name: plain kernels have other losses" near "$out/log.csv" "$out.naive/log.csv" 1e-4
    check "$name: left over: $(ls "$out")" [ "$(ls "$out" | tr '\n' ' ')" = 'df.safetensors log.csv ' ]
}
# sampled NAME TABLE OPTIONS...: the same seed writes the same table, with any number of threads; another one another
sampled() {
    out=$dir/$1 csv=$2; shift 2
    draws --out "$out" "$@" --threads 1
    cp "$out/$csv" "$dir/one"
    draws --out "$out" "$@" --seed 9
    other "$out/$csv" "$dir/one" "$out $*: another seed writes the same $csv"
    draws --out "$out" "$@" --threads $two
    same "$out/$csv" "$dir/one" "$out $*: the same seed writes another $csv"
}
rows="rows asked naive seconds"

trained cross $cross
$df sample --out "$dir/cross" $quick >"$dir/stdout" 2>"$dir/stderr" || ! grep -q 'built without stb_image_write' "$dir/stderr" || png=
sampled cross cross.csv $quick
ways="task samples straight v back off no_memory_plan no_memory_straight no_memory_v no_memory_back no_memory_off $rows"
last_draws sample $ways
table "$dir/cross/cross.csv" kind,path,t,x,y $((3*2*7)) 1
[ -z $png ] || picture "$dir/cross/cross.png" 780x260
expect 0 '' $df eval --out "$dir/cross" $quick
promises eval $ways
expect 0 '' $df eval --out "$dir/cross" --samples 4 --elbo --observed 0-3,5 --draws 3
promises eval task elbo_nats stderr observed_tokens nats_per_number sequences draws seconds
says ' observed_tokens=18 .* sequences=4 draws=3 '

for net in rnn transformer; do
    trained maze_$net $maze --net $net
    sampled maze_$net maze.csv $quick
    last_draws sample task samples plans_that_pass_the_goal $rows
    plans "$dir/maze_$net/maze.csv" 2 8
    draws --out "$dir/maze_$net" $quick --animate "$dir/maze.svg"
    [ -z $png ] || check "maze.svg is no animation of 40 stages" [ "$(grep -c '<g class="f"' "$dir/maze.svg") $(grep -c '@keyframes' "$dir/maze.svg") $(grep -c '<polyline' "$dir/maze.svg") $(tail -n 1 "$dir/maze.svg")" = '40 40 40 </svg>' ]
    plans "$dir/maze_$net/maze.csv" 2 8
    [ -z $png ] || picture "$dir/maze_$net/maze.png" 770x308
    expect 0 '' $df eval --out "$dir/maze_$net" $quick --replan 150 --controller pd --goals multi
    says '^eval: task=maze2d maze=umaze controller=pd matrix=pyramid guidance=0 futures=1 episodes=2 return=.* stderr=.* score=.* score_stderr=.* reached=.* first_reach=.* return_if_stay=.* wall_steps=.* collisions=.* rows=.* asked=.* naive=.* seconds='
    table "$dir/maze_$net/episodes.csv" episode,return,score,first_reach,return_if_stay,wall_steps,collisions 2
done
expect 0 '' $df eval --out "$dir/maze_rnn" $quick --replan 150 --controller actions
# however often a controller that needs no plan is asked to plan, the episode is the same one, and as long
for replan in 10 150 299; do $df eval --out "$dir/maze_transformer" $quick --replan $replan --controller straight | sed -n 's/^eval: .* \(return=[^ ]* .*\) seconds=.*/\1/p' >"$dir/straight$replan"; done
[ -s "$dir/straight10" ] && cmp -s "$dir/straight10" "$dir/straight150" && cmp -s "$dir/straight10" "$dir/straight299" && ok || fail "--replan changes an episode without plans"
# without a network: the waypoint controller reaches every goal
expect 0 '' $df eval --out "$dir/maze_rnn" --samples 2 --controller waypoints
says ' controller=waypoints .* reached=1.000 '
expect 0 '' $df eval --out "$dir/maze_rnn" --samples 2 --controller straight
# plans of fewer rows than the picture has stages: every stage is kept, none the zeros that no ball stands at
draws --out "$dir/maze_rnn" --samples 2 --sampling-steps 2 --matrix full_sequence
plans "$dir/maze_rnn/maze.csv" 2 8
check "a stage of the picture was not kept" awk -F, '$1 == "plan" && $5 == 0 && $6 == 0 { n++ } END { exit n > 0 }' "$dir/maze_rnn/maze.csv"
# defaults of the task, though only the checkpoint knows which it is
draws --out "$dir/maze_rnn"
says ' samples=8 .* matrix=pyramid .* sampling-steps=20 '

for patches in 1 4; do
    trained video_$patches $video --patches $patches
    sampled video_$patches video.csv $quick --length 9
    last_draws sample task noise samples frames error error_last objects_wrong $rows
    table "$dir/video_$patches/video.csv" frame,error,stderr,out_of_range,objects_wrong,position_error,jump 9
    [ -z $png ] || picture "$dir/video_$patches/video.png"
    expect 0 '' $df eval --out "$dir/video_$patches" $quick --length 9 --chunk 3
    promises eval task noise samples frames error error_last objects_wrong $rows
done
trained video_rnn $video --net rnn
sampled video_rnn video.csv $quick --length 9 --context 3
expect 0 '' $df eval --out "$dir/video_rnn" $quick

for net in rnn transformer; do
    trained series_$net $series --net $net
    sampled series_$net series.csv --sampling-steps 4 --samples 20
    last_draws sample task windows steps samples crps_sum last_value seasonal_naive var1 crps_unnormalised var1_unnormalised $rows
    table "$dir/series_$net/series.csv" t,column,truth,q05,q50,q95 9 2      # two columns and their sum
    expect 0 '' $df eval --out "$dir/series_$net" --sampling-steps 4 --samples 20
    promises eval task windows steps samples crps_sum last_value seasonal_naive var1 crps_unnormalised var1_unnormalised $rows
    expect 0 '' $df eval --out "$dir/series_$net" --samples 4 --draws 3 --elbo
done
expect 0 '' $df eval --out "$dir/series_rnn" --sampling-steps 4 --samples 20 --context 4 --length 9 --chunk 3       # beyond the window

# ---- every choice runs, and changes something
expect 0 '' $df train $cross --steps 2 --force --out "$dir/kind"
cut -d, -f1-3 "$dir/kind/log.csv" >"$dir/one"
for choice in '--noise teacher' '--noise full' '--schedule linear' '--schedule sigmoid' '--objective pred_noise' '--objective pred_v' '--weight min_snr' '--weight fused_snr' \
    '--weight fused_snr --snr-first --objective pred_v' '--layers 3 --cells 4' '--ema 0.1 --clip-grad 0 --warmup 0'; do
    expect 0 '' $df train $cross $choice --steps 2 --force --out "$dir/kind"
    cut -d, -f1-3 "$dir/kind/log.csv" >"$dir/two"
    other "$dir/one" "$dir/two" "$choice changes nothing"
    expect 0 '' $df eval --out "$dir/kind" $quick
    expect 0 '' $df eval --out "$dir/kind" --samples 2 --draws 2 --elbo
done
for choice in '--noise teacher' '--noise full'; do
    expect 0 '' $df train $video --patches 4 $choice --steps 2 --force --out "$dir/kind"
    expect 0 '' $df eval --out "$dir/kind" $quick --length 6
done
expect 0 '' $df train $maze --net transformer --causal --channels all --steps 2 --force --out "$dir/kind"
expect 0 '' $df eval --out "$dir/kind" $quick --replan 150 --controller actions --guidance 1
draws --out "$dir/cross" $quick --matrix pyramid
cp "$dir/cross/cross.csv" "$dir/one"
for choice in '--matrix full_sequence' '--matrix autoregressive' '--matrix trapezoid' '--uncertainty 4' '--stabilise 0' '--stabilise 30 --stabilise-with noise' '--sampler ddpm' '--eta 1' '--plan 1' '--length 9'; do
    draws --out "$dir/cross" --samples 2 --matrix pyramid $(case $choice in *ddpm) ;; *) echo --sampling-steps 5 ;; esac) $choice
    other "$dir/cross/cross.csv" "$dir/one" "$choice changes nothing"
done
draws --out "$dir/video_rnn" $quick --length 9; cp "$dir/video_rnn/video.csv" "$dir/one"
draws --out "$dir/video_rnn" $quick --length 9 --stabilise-truth
other "$dir/video_rnn/video.csv" "$dir/one" "--stabilise-truth changes nothing"
draws --out "$dir/maze_rnn" $quick; cp "$dir/maze_rnn/maze.csv" "$dir/one"
draws --out "$dir/maze_rnn" $quick --guidance 3; cp "$dir/maze_rnn/maze.csv" "$dir/two"
other "$dir/one" "$dir/two" "--guidance changes nothing"
for choice in '--futures 3' '--sampler ddpm --sampling-steps 30' '--eta 1' '--goals multi' '--length 9'; do
    draws --out "$dir/maze_rnn" $quick --guidance 3 $choice
    other "$dir/maze_rnn/maze.csv" "$dir/two" "$choice changes nothing"
done
draws --out "$dir/maze_transformer" $quick --guidance 3
# rows: full sequence S, pyramid S + u (T - 1), autoregressive S T, trapezoid S + u times half of it; each ends with all tokens clean, whatever u is
for choice in 'full_sequence 6' 'pyramid 11' 'autoregressive 31' 'trapezoid 8'; do
    [ $png ] || continue
    expect 0 '' $df sample --out "$dir/cross" $quick --matrix ${choice% *} --schedule-png "$dir/schedule.png"
    says "schedule.png: ${choice#* } rows from top to bottom, 6 tokens from left to right"
    picture "$dir/schedule.png" $((400/6*6))x$((400 / ${choice#* } * ${choice#* }))
done
expect 1 'animate belongs to --task maze2d' $df sample --out "$dir/cross" $quick --animate "$dir/none.svg"
draws --out "$dir/cross" $quick --matrix pyramid --watch
says '^ *1 .*[█▇] *| [-+][0-9.]* '
says '^ *10 [ ▁]* *| '
check "--watch shows the dry run" sh -c '! grep -qF "+0.00 +0.00 +0.00" "$1"' sh "$dir/stdout"
check "--watch in a pipe writes terminal codes" sh -c '! grep -q "$(printf "\033")" "$1"' sh "$dir/stdout"
expect 0 '' $df train $cross --steps 2 --precision bf16 --force --out "$dir/kind"
says 'precision=bf16'
expect 0 '' $df eval --out "$dir/kind" $quick --precision bf16

# ---- --help names every option of a verb, and none of another's
expect 0 '' $df --help
for verb in train sample eval check; do
    expect 0 '' $df $verb --help
    sed -n '/^static Option options/,/^};/s/^ *{"\([a-z-]*\)".*", *" \([a-z ]*\) ", .*/\1 \2 /p; /^static Option options/,/^};/s/^ *{"\([a-z-]*\)",.* " \([a-z ]*\) ", "[^"]*".*/\1 \2 /p' df.c | sort -u |
        awk -v verb=$verb '{ for (i = 2; i <= NF; i++) if ($i == verb) print "--" $1 }' | sort >"$dir/one"
    sed -n 's/^  \(--[a-z-]*\) .*/\1/p' "$dir/stdout" | sort >"$dir/two"
    check "$verb --help: $(diff "$dir/one" "$dir/two" | tr '\n' ' ')" cmp -s "$dir/one" "$dir/two"
    check "$verb has no options" [ "$(wc -l <"$dir/two")" -gt 2 ]
done

# ---- bad input: one line, and nothing is made or overwritten
x="--steps 2 --out $dir/x"
mkdir "$dir/bad"; b=$dir/bad
printf '####\n####\n####\n' >"$b/full"; printf '#####\n#O#O#\n#####\n' >"$b/parted"; printf '####\n#O##\n###\n' >"$b/ragged"; printf '###\n#O#\n###\n' >"$b/cell"; printf '####\n#Ox#\n####\n' >"$b/letter"
for bad in 'full a maze needs a free cell' 'parted no path from cell (1,3) to cell (1,1)' 'ragged row 3 has 3 cells, row 1 has 4' "cell too small, the ball never moves" "letter row 2, column 3: 'x'" 'none there is no maze'; do
    expect 1 "${bad#* }" $df train $maze --maze "$b/${bad%% *}" $x
done
printf 'a,b\n1,2\n' >"$b/row.csv"; printf 'a,b\n1,2\n2\n3,4\n' >"$b/few.csv"; printf 'a,b\n1,2\n2,\n3,4\n' >"$b/empty.csv"; printf 'a,b\n1,2\n2,warm\n3,4\n' >"$b/text.csv"
printf 'a,b\n1,2\n2,nan\n3,4\n' >"$b/nan.csv"; : >"$b/nothing.csv"; awk 'BEGIN { print "a"; for (i = 0; i < 40; i++) print i % 3 }' >"$b/short.csv"
for bad in 'row row 2, .*two rows or more' 'few row 3, .*fewer cells' 'empty row 3, column 2: a number is missing' 'text row 3, column 2: text in place of a number' 'nan row 3, column 2: NaN' \
    'nothing an empty file' 'none no such file'; do
    expect 1 "${bad#* }" $df train $series --csv "$b/${bad%% *}.csv" $x
done
expect 1 'its 36 training steps are fewer than --tokens 40' $df train $series --csv "$b/short.csv" --tokens 40 $x
expect 1 'one sequence needs 1205' $df train $maze --tokens 400 --frames 3 --data-steps 1000 $x
for bad in 'task tree cross, maze2d, video or series' 'net lstm rnn or transformer' 'noise white independent, teacher or full' 'schedule square linear, cosine or sigmoid' \
    'objective x0 pred_noise, pred_x0 or pred_v' 'weight heavy uniform, min_snr or fused_snr' 'cells 3 do not divide --state 8' 'patches 2 belong to --net transformer' 'precision half fp32, bf16 or auto' 'device gpu cpu or cuda'; do
    set -- $bad; option=$1 value=$2; shift 2
    expect 1 "--$option $value.*$*" $df train $cross --$option $value $x
done
expect 1 '--channels some: all or positions' $df train $maze --channels some $x
expect 1 '--patches 2 belong to --task video' $df train $maze --net transformer --patches 2 $x
expect 1 '--patches 2 belong to --task video' $df train $series --net transformer --patches 2 $x
expect 1 '--patches 3 do not divide --size 8' $df train $video --patches 3 $x
expect 1 '--heads 3 do not divide --width 8' $df train $video --heads 3 $x
expect 1 'a transformer has none' $df train $cross --net transformer $x
expect 1 '--noise teacher: a history needs --net rnn, or --causal' $df train $maze --net transformer --noise teacher $x
expect 1 'nothing is left of the signal at level 19' $df train $cross --schedule linear --levels 20 $x
expect 1 'more than a billion numbers' $df train $cross --batch 1000000 --tokens 10000 $x
expect 1 "directory is needed" $df train $cross --steps 2 --out ''
expect 1 'in the way' $df train $cross --steps 2 --out "$dir/series.csv"
expect 2 'no verb' $df tarin
expect 2 "what is 'cross'" $df train cross
expect 2 "what is 'now'" $df sample --out "$dir/cross" now
expect 2 'has no option --guidance' $df train --guidance 2
expect 2 'needs a value' $df train --steps
expect 2 'whole number from 2' $df train --levels 1
expect 2 'number from 0 to 1 ' $df sample --eta 2
expect 2 'needs FILE' $df check

cp "$dir/cross/df.safetensors" "$dir/before"; rm -f "$dir/cross/cross.csv" "$dir/cross/cross.png"
expect 1 'is there already' $df train $cross --steps 9 --out "$dir/cross"
expect 1 'has done its 6 steps' $df train --resume --out "$dir/cross"
expect 1 'has done its 6 steps' $df train --resume --steps 5 --out "$dir/cross"
expect 1 'no checkpoint (./df train --task cross' $df train --resume --steps 5 --out "$dir/x"
expect 1 'no checkpoint (./df train --task video' $df sample --task video --out "$dir/x"
expect 1 'trained with --task cross, not video .*may change: steps)' $df train --resume --task video --steps 9 --out "$dir/cross"
expect 1 'trained with --task cross, not maze2d .*may change: seed csv context)' $df eval --task maze2d --out "$dir/cross"
for change in '--width 16' '--noise full' '--levels 40' '--seed 8' '--ema 0.9'; do
    expect 1 "trained with ${change% *} .*, not ${change#* }" $df train --resume --steps 9 $change --out "$dir/cross"
done
for bad in 'matrix round full_sequence, pyramid, autoregressive or trapezoid' 'sampler euler ddim or ddpm' 'stabilise-with hope label or noise' 'sampling-steps 31 there are 30 levels' 'stabilise 31 there are 30 levels'; do
    set -- $bad; option=$1 value=$2; shift 2
    expect 1 "--$option $value: $*" $df sample --out "$dir/cross" --samples 2 --sampling-steps 5 --$option $value
done
expect 1 'ddpm takes every level: --sampling-steps is 30' $df sample --out "$dir/cross" $quick --sampler ddpm
# a matrix always reaches zero: it has as many rows as its last token needs, so only an impossible or endless delay is left to ask for
for u in -1 nan inf 1e5; do expect 2 'number from 0 to 10000' $df sample --out "$dir/cross" $quick --uncertainty $u; done
expect 1 '--uncertainty 10000: too many rows' $df sample --out "$dir/cross" $quick --matrix pyramid --uncertainty 1e4 --length 100000
expect 1 '--samples 100000 of 100000 tokens: more than' $df sample --out "$dir/cross" --sampling-steps 5 --samples 100000 --length 100000
expect 1 'cannot write .*/none/a.png' $df sample --out "$dir/cross" $quick --schedule-png "$dir/none/a.png"
expect 1 'picture of .* is not possible' $df sample --out "$dir/cross" $quick --matrix autoregressive --length 20000 --schedule-png "$dir/x.png"
for list in a , 6 3-1 1- -1 0-6 1,,2 1, 0x1; do expect 1 "--observed $list: tokens from 0 to 5" $df eval --out "$dir/cross" --elbo --observed $list; done
expect 1 '--observed belongs to --elbo' $df eval --out "$dir/cross" $quick --observed 1
expect 1 '--draws belongs to --elbo' $df eval --out "$dir/cross" $quick --draws 3
expect 1 'cannot write .*cross.csv: No space left' sh -c 'ln -s /dev/full "$2/cross.csv"; $1 sample --out "$2" --samples 2 --sampling-steps 5' sh $df "$dir/cross"
rm "$dir/cross/cross.csv"
expect 1 'standard output' sh -c '$1 eval --out "$2" --samples 2 --sampling-steps 5 >/dev/full' sh $df "$dir/cross"
check "refused runs left something: $(ls "$dir/cross")" [ "$(ls "$dir/cross" | tr '\n' ' ')" = 'df.safetensors log.csv ' ]
same "$dir/cross/df.safetensors" "$dir/before" "a refused run changed the checkpoint"

m=$dir/maze_transformer
expect 1 '--length 5: a transformer that was trained on 4 tokens plans no more' $df sample --out "$m" $quick --length 5
for verb in sample eval; do
    expect 1 '--goals both: single or multi' $df $verb --out "$m" $quick --goals both
    expect 1 '--futures 3: Monte-Carlo guidance needs --net rnn' $df $verb --out "$m" $quick --futures 3 --guidance 1
done
expect 1 '--controller luck: pd, actions, straight or waypoints' $df eval --out "$m" $quick --controller luck
expect 1 '--controller actions: this network plans positions only' $df eval --out "$m" $quick --controller actions
expect 1 '--elbo: the bound goes from the past to the future' $df eval --out "$m" --elbo
expect 1 'row [0-9]* of the schedule: token [0-9]* of sequence [01] is not finite (try a smaller --guidance)' $df sample --out "$m" $quick --guidance 1e38
expect 1 '--context 5: of at most 4 frames' $df eval --out "$dir/video_1" $quick --context 5
expect 1 '--context 3: of at most 2 frames' $df eval --out "$dir/video_rnn" $quick --length 3 --context 3
expect 1 '--chunk 5: a network that sees 5 frames makes at most 4' $df eval --out "$dir/video_1" $quick --chunk 5
expect 1 '--chunk 6: a network that sees 5 frames makes at most' $df eval --out "$dir/video_rnn" $quick --chunk 6
expect 1 '--context 6 leaves nothing to forecast' $df eval --out "$dir/series_rnn" --samples 20 --sampling-steps 4 --context 6
expect 1 'its last 16 rows, the test part, are fewer than a forecast of 57' $df eval --out "$dir/series_rnn" --samples 20 --sampling-steps 4 --length 60
expect 1 'need at least 20' $df eval --out "$dir/series_rnn" --samples 19 --sampling-steps 4
expect 1 'a lag of 7 steps would show a forecast the truth (6 at most)' $df eval --out "$dir/series_rnn" --samples 20 --sampling-steps 4 --context 1 --length 9 --chunk 7
expect 1 '--length 7, --chunk 1: more than a transformer of 6 tokens sees' $df eval --out "$dir/series_transformer" --samples 20 --sampling-steps 4 --length 7
expect 1 '--length 6, --chunk 6: more than a transformer of 6 tokens sees' $df eval --out "$dir/series_transformer" --samples 20 --sampling-steps 4 --chunk 6
sed 's/,[^,]*$//' "$dir/series.csv" >"$b/one.csv"
expect 1 'one.csv has 1 columns to forecast, the network was trained on 2' $df eval --out "$dir/series_rnn" --samples 20 --sampling-steps 4 --csv "$b/one.csv"
expect 1 'one.csv has 1 columns to forecast, the network was trained on 2' $df eval --out "$dir/series_transformer" --samples 20 --sampling-steps 4 --csv "$b/one.csv"

# broken checkpoints. altered SED-SCRIPT: one in $dir/altered with other words in its header
altered() { mkdir -p "$dir/altered"; LC_ALL=C sed "$1" "$dir/cross/df.safetensors" >"$dir/altered/df.safetensors"; }
altered 's/"program":"df"/"program":"bd"/'
expect 1 'a checkpoint of bd, not of df' $df sample --out "$dir/altered"
altered 's/"state":"8"/"state":"7"/'
expect 1 'tensor .* has another shape than (.*) of this configuration' $df sample --out "$dir/altered" $quick
expect 1 'tensor .* has another shape than (.*) of this configuration' $df train --resume --steps 9 --out "$dir/altered"
altered 's/"cells":"1"/"cells":"3"/'
expect 1 '--cells 3 do not divide --state 8' $df eval --out "$dir/altered" $quick
altered 's/"step":"6"/"step":"x"/'
expect 1 "step 'x' is not possible" $df sample --out "$dir/altered"
altered 's/"levels":"30"/"levels":"+1"/'
expect 1 '--levels +1 is not possible' $df sample --out "$dir/altered"
altered 's/"schedule":"cosine"/"schedule":"cosecs"/'
expect 1 '--schedule cosecs: linear' $df sample --out "$dir/altered" $quick
altered 's/"task":"cross"/"task":"cress"/'
expect 1 '--task cress: cross' $df sample --out "$dir/altered"
altered 's/"ema.init_encoder.0.bias"/"ema.init_encoder.0.bios"/'
expect 1 'tensor ema.init_encoder.0.bias is missing' $df eval --out "$dir/altered" $quick
head -c 3000 "$dir/cross/df.safetensors" >"$dir/altered/df.safetensors"
expect 1 'longer than the file' $df sample --out "$dir/altered"
: >"$dir/altered/df.safetensors"
expect 1 'altered/df.safetensors' $df train --resume --steps 9 --out "$dir/altered"
if [ -x ./bd3lm ]; then
    ./bd3lm train --data README.md --vocab 0 --layers 1 --width 8 --heads 2 --length 8 --batch 1 --steps 1 --out "$dir/bd3lm" >/dev/null
    cp "$dir/bd3lm/bd3lm.safetensors" "$dir/altered/df.safetensors"
    for verb in sample eval 'train --resume --steps 9'; do expect 1 'a checkpoint of bd3lm, not of df' $df $verb --out "$dir/altered"; done
fi
# a NaN in the weights: training names the tensor, sampling the token, and neither writes
cp "$dir/cross/df.safetensors" "$dir/altered/df.safetensors"
$BUILD/poison "$dir/altered/df.safetensors" transition_model.x_from_z.bias
cp "$dir/altered/df.safetensors" "$dir/before"
expect 1 'step 7: loss .*nan.*parameter transition_model.x_from_z.bias' $df train --resume --steps 9 --out "$dir/altered"
$BUILD/poison "$dir/before" ema.transition_model.x_from_z.bias
cp "$dir/before" "$dir/altered/df.safetensors"
expect 1 'row 1 of the schedule: token 0 of sequence 0 is not finite$' $df sample --out "$dir/altered" $quick
same "$dir/altered/df.safetensors" "$dir/before" "a run that failed changed the checkpoint"

# a directory in use; a run that is killed leaves a checkpoint that goes on
$df train $cross --steps 1000000 --save-every 5 --out "$dir/used" >/dev/null 2>&1 & pid=$!
i=0; while [ $i -lt 1200 ] && ! [ -e "$dir/used/df.safetensors" ]; do sleep 0.05; i=$((i + 1)); done
for how in --resume --force ''; do expect 1 'used is in use: another process trains there' timeout 20 $df train $cross --steps 1000000 $how --out "$dir/used"; done
kill -INT $pid; wait $pid; check "SIGINT: exit status $?" [ $? -eq 0 ]
done=$(grep -ao '"step":"[0-9]*"' "$dir/used/df.safetensors" | grep -o '[0-9]*')
expect 0 '' $df train --resume --steps $((done + 2)) --save-every 0 --out "$dir/used"
check "log.csv has not a line a step" [ "$(tail -n 1 "$dir/used/log.csv" | cut -d, -f1)" -eq $((done + 2)) ]
for there in x x.png none; do check "a refused run made $there" [ ! -e "$dir/$there" ]; done

$df check README.md >"$dir/stdout" 2>&1 && fail "check accepts a text" || ok
says 'not a safetensors file'
$df check "$dir/cross/df.safetensors" >"$dir/stdout" 2>&1 && fail "check accepts a checkpoint" || ok
says "of paper ''"
$df check tests/golden/bd3lm/masks_L6_b2.safetensors >"$dir/stdout" 2>&1 && fail "check accepts a file of another paper" || ok
says "of paper 'bd3lm'"

echo "$passed passed, $failed failed"
[ $failed -eq 0 ] && [ $passed -gt 0 ]
