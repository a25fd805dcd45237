#!/bin/sh
# tests/kill.sh SCRATCH: kill -9, fifty times or more, at random instants of a training that saves after every step. Whenever it comes, the checkpoint is whole:
# it loads, training goes on from it, and what was being written neither hinders nor piles up. A temporary file that is left behind shows that
# the blow fell between open and rename; at least 25 must.
set -u
dir=$1/kill
mkdir -p "$dir"
passed=0 failed=0 landed=0
check() { if [ "$1" -eq 0 ]; then passed=$((passed + 1)); else failed=$((failed + 1)); echo "FAIL  blow $i: $2"; fi; }
cat README.md NOTES.md >"$dir/text"
i=0
./bd3lm train --data "$dir/text" --vocab 0 --layers 2 --width 320 --heads 4 --length 8 --block 4 --batch 1 --steps 1 --out "$dir/out" >/dev/null
step() { grep -ao '"step":"[0-9]*"' "$dir/out/bd3lm.safetensors" | head -n 1 | tr -dc 0-9; }
before=$(step)
while [ $i -lt 50 ] || { [ $landed -lt 25 ] && [ $i -lt 150 ]; }; do
    i=$((i + 1))
    ./bd3lm train --resume --steps 100000 --save-every 1 --out "$dir/out" >/dev/null 2>"$dir/stderr" &
    child=$!
    sleep "$(awk -v seed=$i 'BEGIN { srand(seed); printf "%.3f", 0.3 + 0.6 * rand() }')"
    kill -9 $child 2>/dev/null
    wait $child 2>/dev/null
    left=$(find "$dir/out" -name '*.part' | wc -l)
    [ "$left" -gt 0 ] && landed=$((landed + 1))
    [ "$left" -le 1 ]; check $? "$left temporary files"
    ./bd3lm sample --out "$dir/out" --chars 4 >"$dir/stdout" 2>>"$dir/stderr"; check $? "the checkpoint does not load: $(cat "$dir/stderr")"
    after=$(step)
    [ "$after" -ge "$before" ]; check $? "step $after after step $before"
    before=$after
done
blows=$i i=last
[ "$before" -gt 1 ]; check $? "no run came to save anything"
[ $landed -ge 25 ]; check $? "only $landed of $blows blows fell between open and rename"
echo "$landed of $blows blows fell between open and rename, the last checkpoint is of step $before"
rm -r "$dir"
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
