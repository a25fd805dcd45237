# tests/device_part.sh: what tests/device.sh and tests/device_df.sh share; read by them with `.`, dir, passed and failed being set.
ok() { passed=$((passed + 1)); }
fail() { failed=$((failed + 1)); echo "FAIL  $*"; }
check() { what=$1; shift; if "$@"; then ok; else fail "$what"; fi; }
mkdir -p "$dir"
# the losses and gradient norms of two logs at a step: relative difference <= bound; awk's comparison is false for a NaN
near() { awk -F, -v step="$3" -v bound="$4" 'FNR == 1 { file++ } $1 == step { loss[file] = $2; norm[file] = $3 }
    function close_to(a, b) { return a != "" && a - b <= bound * b && b - a <= bound * b } END { exit !(close_to(loss[1], loss[2]) && close_to(norm[1], norm[2])) }' "$1" "$2"; }
refused() {                                             # refused PATTERN COMMAND...
    pattern=$1; shift
    "$@" >"$dir/stdout" 2>"$dir/stderr"
    [ $? -eq 1 ] && [ "$(wc -l <"$dir/stderr")" -eq 1 ] && grep -q -- "$pattern" "$dir/stderr" && [ ! -e "$dir/none" ] && ok || fail "not refused as '$pattern': $(head -n 3 "$dir/stderr")"
}
