# part.sh, read by run.sh and cuda.sh: part() runs a test and adds up its counts in passed and failed; $scratch is a folder of the caller.
passed=0 failed=0

# part COMMAND...: its last line must end in `N passed, N failed`
part() {
    "$@" >"$scratch/out" 2>&1
    status=$?
    line=$(tail -n 1 "$scratch/out")
    p=$(echo "$line" | sed -n 's/.*\b\([0-9][0-9]*\) passed, [0-9][0-9]* failed$/\1/p')
    f=$(echo "$line" | sed -n 's/.*[0-9] passed, \([0-9][0-9]*\) failed$/\1/p')
    if [ -z "$p" ] || { [ "$f" = 0 ] && [ $status -ne 0 ]; } || [ "$p" = 0 ]; then
        echo "$*: exit status $status"; tail -n 20 "$scratch/out"; p=${p:-0} f=$((${f:-0} + 1))
    elif [ "$f" != 0 ]; then grep FAIL "$scratch/out" | head -n 20
    fi
    passed=$((passed + p)) failed=$((failed + f))
    printf '%8d passed %4d failed   %.60s\n' "$p" "$f" "$*"
}
