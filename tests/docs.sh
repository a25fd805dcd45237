#!/bin/sh
# The documents are executed. In README.md and NOTES.md:
#   every line of a ```sh block is `make TARGET` with a target that exists, an apt line, or a ./bd3lm, ./df or ./acdit command, which is run in a scratch folder;
#   every name() is a function of the sources, every test_*/parity_* name exists, every path in `backquotes` with a / or a known ending is a file of the repository.
set -u
passed=0 failed=0
ok()   { passed=$((passed + 1)); }
fail() { failed=$((failed + 1)); echo "FAIL  $*"; }
sources='bd3lm.c df.c acdit.c common.h io.h kernels.h cpu_kernels.c cpu_fast.c cuda_kernels.cu tests/cuda_emu.h data/text.h data/maze.h data/video.h data/motion.h data/scores.h data/series.h data/images.h data/pictures.h data/gallery.h data/tasks.h tests/*.h tests/*.c'
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# a place where the commands can run: programs, data, and a model of a few steps in out/demo, so that nothing takes long and nothing of the user's is touched
ln -s "$PWD/bd3lm" "$PWD/bd3lm_emu" "$PWD/df" "$PWD/acdit" "$PWD/acdit_emu" "$PWD/data" "$PWD/tests" "$PWD/README.md" "$PWD/NOTES.md" "$scratch/"
cat README.md NOTES.md bd3lm.c >"$scratch/my.txt"
(cd "$scratch" && ./bd3lm train --data my.txt --vocab 50 --steps 3 --out out/demo >/dev/null && ./bd3lm train --data my.txt --vocab 50 --steps 3 >/dev/null) || fail "cannot train a small model"

for document in README.md NOTES.md; do
    [ -s $document ] || fail "$document is missing"
    awk '/^```sh$/ {on = 1; next} /^```/ {on = 0} on' $document >"$scratch/commands"
    while IFS= read -r line; do
        command=${line%%#*}
        case $command in
        '') ;;
        make\ *)
            target=$(echo "$command" | awk '{print $2}')
            if grep -q "^\.PHONY:.*\b$target\b" Makefile; then ok; else fail "$document: no target in: $line"; fi ;;
        *apt-get\ install*|git\ clone*|cd\ *) ok ;;
        ./bd3lm\ *--device\ cuda*)            # on the emulated device
            [ -x ./bd3lm_emu ] || { ok; continue; }
            short=$(echo "$command" | sed -E 's#^\./bd3lm#./bd3lm_emu#; s/^(.*\btrain\b.*)$/\1 --steps 1 --data my.txt --vocab 50 --batch 1/; s/--chars [0-9]+/--chars 4/')
            if (cd "$scratch" && eval "$short --threads 1" >out.txt 2>err.txt </dev/null); then ok; else fail "$document: $short: $(tail -n 1 "$scratch/err.txt")"; fi ;;
        ./bd3lm\ *)
            # shorter, but the command as it stands otherwise
            short=$(echo "$command" | sed -E 's/^(.*\btrain\b.*)$/\1 --steps 2/; s#--data data/cache/kjv.txt#--data my.txt#')
            if (cd "$scratch" && eval "$short --threads 1" >out.txt 2>err.txt </dev/null); then ok; else fail "$document: $short: $(tail -n 1 "$scratch/err.txt")"; fi ;;
        ./df\ *)                              # tiny, but the command as it stands otherwise
            short=$(echo "$command" | sed -E 's/^(.*\btrain\b.*)$/\1 --steps 2 --width 16 --state 16 --batch 4 --force/; s/^(.*\b(sample|eval)\b.*)$/\1 --sampling-steps 2/; s/--length 200/--length 30/')
            if (cd "$scratch" && eval "$short --threads 1" >out.txt 2>err.txt </dev/null); then ok; else fail "$document: $short: $(tail -n 1 "$scratch/err.txt")"; fi ;;
        ./acdit\ *)                           # the same; --device cuda: on the emulated device
            program=./acdit steps='--sampling-steps 2'
            case $command in *--device\ cuda*) program=./acdit_emu; [ -x ./acdit_emu ] || { ok; continue; } ;; esac
            case $command in *--steps-per-block*) steps= ;; esac
            short=$(echo "$command" | sed -E "s#^\./acdit#$program#; s/^(\S+ train\b.*)$/\1 --steps 2 --width 32 --heads 2 --batch 2 --force/; s/^(\S+ (sample|eval)\b.*)$/\1 $steps --samples 4/; s/^(\S+ classify\b.*)$/\1 --epochs 1 --force/")
            if (cd "$scratch" && eval "$short --threads 1" >out.txt 2>err.txt </dev/null); then ok; else fail "$document: $short: $(tail -n 1 "$scratch/err.txt")"; fi ;;
        sh\ data/get.sh\ *) if (cd "$scratch" && eval "$command" >/dev/null 2>err.txt); then ok; else fail "$document: $command: $(tail -n 1 "$scratch/err.txt")"; fi ;;
        *) fail "$document: cannot check: $line" ;;
        esac
    done <"$scratch/commands"

    for name in $(grep -oE '\b[a-z_][a-z_0-9]*\(\)' $document bd3lm.c df.c acdit.c common.h cpu_fast.c cpu_kernels.c cuda_kernels.cu data/*.h | sed 's/.*://; s/()//' | sort -u); do
        if grep -qE "\b$name\(" $sources && grep -hE "(^|[ *])$name\(" $sources | grep -qvE '^ *(//|\*)'; then ok; else fail "$document or a comment names $name(), which does not exist"; fi
    done
    for name in $(grep -oE '\b(test|parity)_[a-z_0-9]+\b' $document | sort -u); do
        if grep -qE "\b$name\b" $sources Makefile || [ -e tests/$name.c ]; then ok; else fail "$document names $name, which does not exist"; fi
    done
    for path in $(grep -oE '`[A-Za-z_0-9./-]+`' $document | tr -d '`' | grep -E '\.(c|h|sh|md|cu)$|^[a-z]+/' | sort -u); do
        if [ -e "$path" ]; then ok; else case $path in out/*|data/cache/*|build/*) ok ;; *) fail "$document names $path, which does not exist" ;; esac; fi
    done
    for target in $(grep -oE '`make [a-z-]+' $document | awk '{print $2}' | sort -u); do
        if grep -q "^\.PHONY:.*\b$target\b" Makefile; then ok; else fail "$document names make $target, which is no target"; fi
    done
    for option in $(grep -oE '(^|[ `(])--[a-z][a-z-]*' $document | grep -oE '[-][-].*' | sort -u); do
        if grep -qE "\{\"${option#--}\"," bd3lm.c df.c acdit.c || [ "$option" = --help ] || [ "$option" = --no-install-recommends ]; then ok; else fail "$document names $option, which is no option"; fi
    done
done
if grep -n 'MUTANTS_' NOTES.md; then fail "NOTES.md has a number to be filled in"; else ok; fi
echo "$passed passed, $failed failed"
[ $failed -eq 0 ] && [ $passed -gt 0 ]
