# tests/cli_part.sh: what tests/cli_df.sh and tests/cli_acdit.sh share; read by them with `.`, dir being set.
passed=0 failed=0
ok()   { passed=$((passed + 1)); }
fail() { failed=$((failed + 1)); echo "FAIL  $*"; }
check() { what=$1; shift; if "$@"; then ok; else fail "$what"; fi; }

# expect STATUS WORD COMMAND...: exits with STATUS, and prints WORD in exactly one line of stderr; nothing there if STATUS is 0
expect() {
    want=$1 word=$2; shift 2
    "$@" >"$dir/stdout" 2>"$dir/stderr"
    status=$?
    if [ $status -ne "$want" ]; then fail "$*: exit status $status, not $want: $(tail -n 2 "$dir/stderr")"; return 1; fi
    if [ "$want" = 0 ]; then check "$*: says $(head -n 2 "$dir/stderr")" [ ! -s "$dir/stderr" ]; return; fi
    if [ "$(wc -l <"$dir/stderr")" -ne 1 ] || ! grep -q -- "$word" "$dir/stderr"; then fail "$*: '$(cat "$dir/stderr")' lacks '$word' or is not one line"; return 1; fi
    ok
}
says() { check "'$1' is not in the output: $(tail -n 3 "$dir/stdout")" grep -aq -- "$1" "$dir/stdout"; }
# promises VERB KEY...: the last line is VERB: and these keys with a value each, in this order; a number is finite
promises() {
    verb=$1; shift
    line=$(tail -n 1 "$dir/stdout")
    check "'$line' is not $verb: $*" [ "$(echo "$line" | sed 's/=[^ ][^ ]*//g')" = "$verb: $*" ]
    check "not finite: $line" sh -c '! echo "$1" | grep -qE "=-?(nan|inf)"' sh "$line"
}
same() { check "$3" cmp -s "$1" "$2"; }
other() { check "$3" sh -c '! cmp -s "$1" "$2"' sh "$1" "$2"; }
