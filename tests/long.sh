#!/bin/sh
# What `make test` cannot do in three minutes: sanitizers with the fake device, the other compiler, no OpenMP, the baseline processor, Arm.
# Each part must report its counts; the last line adds them up.
set -u
unset MAKEFLAGS                                         # each make below counts its own jobs; one that looks for its parent's warns
passed=0 failed=0
part() {                                                # part NAME COMMAND...
    name=$1; shift
    log=build/long.log
    "$@" >$log 2>&1
    status=$?
    line=$(grep -a 'passed, [0-9]* failed$' $log | tail -n 1)
    p=$(echo "$line" | sed -n 's/.*\b\([0-9][0-9]*\) passed, .*/\1/p') f=$(echo "$line" | sed -n 's/.* \([0-9][0-9]*\) failed$/\1/p')
    if [ -z "$p" ] || { [ "$f" = 0 ] && [ $status -ne 0 ]; }; then p=${p:-0} f=$((${f:-0} + 1)); fi
    [ "$f" = 0 ] || { grep -aE 'FAIL|ERROR|error|warning' $log | head -n 20; tail -n 5 $log; }
    passed=$((passed + p)) failed=$((failed + f))
    printf '%8d passed %4d failed   %s\n' "$p" "$f" "$name"
}
mkdir -p build

# no compiler may warn
quiet() { "$@" >build/quiet.log 2>&1; s=$?; w=$(grep -c 'warning' build/quiet.log); [ $s -eq 0 ] && [ "$w" -eq 0 ] && echo "1 passed, 0 failed" || { cat build/quiet.log; echo "0 passed, 1 failed"; }; }

for cc in gcc clang; do
    command -v $cc >/dev/null || { echo "         skipped: no $cc"; continue; }
    for omp in 1 0; do
        [ "$cc $omp" = "gcc 1" ] && continue            # that is make test
        [ $omp = 1 ] && ! echo 'int main(void){return 0;}' | $cc -fopenmp -include omp.h -x c - -o /dev/null 2>/dev/null && { echo "         skipped: $cc without OpenMP's library"; continue; }
        part "$cc OMP=$omp: no warnings" quiet make CC=$cc OMP=$omp NVCC= BUILD=build/$cc$omp all build/$cc$omp/cuda_emu.o build/$cc$omp/test_emu build/$cc$omp/parity build/$cc$omp/test_ops build/$cc$omp/bench_kernels build/$cc$omp/bench_steps
        part "$cc OMP=$omp, no nvcc: make test" make CC=$cc OMP=$omp NVCC= BUILD=build/$cc$omp test
    done
done
part "gcc, baseline processor: make test" make CC=gcc ARCH= NVCC= BUILD=build/baseline test

# Arm: cross-compiled, run by qemu
arm=aarch64-linux-gnu-gcc
if command -v $arm >/dev/null && command -v qemu-aarch64 >/dev/null; then
    dir=build/arm64
    part "arm64: no warnings" quiet make CC=$arm ARCH= NVCC= BUILD=$dir $dir/parity $dir/cpu64.so $dir/test_bd3lm $dir/test_check_bd3lm $dir/test_check_df $dir/test_check_acdit $dir/bench_kernels
    on_arm() { QEMU_LD_PREFIX=/usr/aarch64-linux-gnu OMP_NUM_THREADS=1 qemu-aarch64 "$@"; }
    part "arm64: parity" on_arm $dir/parity $dir/cpu64.so
    part "arm64: test_bd3lm, float" on_arm $dir/test_bd3lm
    part "arm64: golden files of df, and that they can fail" on_arm $dir/test_check_df $(sh tests/supported.sh tests/golden/df)
    part "arm64: golden files of acdit, and that they can fail" on_arm $dir/test_check_acdit tests/golden/acdit/loss_grad_*.safetensors tests/golden/acdit/rope_*.safetensors tests/golden/acdit/solver_*.safetensors
    part "arm64: golden files, and that they can fail" on_arm $dir/test_check_bd3lm $(sh tests/supported.sh tests/golden/bd3lm)
else echo "         skipped: no $arm and qemu-aarch64"
fi

# sanitizers and the fake device: the tests, then the program
san="-std=gnu11 -O1 -g -fno-math-errno -fopenmp -fsanitize=address,undefined -fno-sanitize-recover=undefined -DFAKE_DEVICE"
dir=build/sanitized
mkdir -p $dir/scratch
export OMP_NUM_THREADS=2
golden=$(sh tests/supported.sh tests/golden/bd3lm)
gcc $san -Dreal=double -fPIC -shared cpu_kernels.c -o $dir/cpu64.so -lm
zlib=$(echo 'int main(void){return 0;}' | gcc -lz -x c - -o /dev/null 2>/dev/null && echo -lz)
build_and_run() { bin=$dir/$1 src=$2 kernels=$3; shift 3; gcc $san $src $kernels -o $bin -lm -ldl $zlib && $bin "$@"; }
part "sanitized: test_common" build_and_run test_common tests/test_common.c "cpu_kernels.c cpu_fast.c" $dir/scratch
part "sanitized: test_ops" build_and_run test_ops "-Dreal=double tests/test_ops.c" cpu_kernels.c
part "sanitized: test_bd3lm, float" build_and_run test_bd3lm tests/test_bd3lm.c "cpu_kernels.c cpu_fast.c"
part "sanitized: test_df, float" build_and_run test_df tests/test_df.c "cpu_kernels.c cpu_fast.c"
part "sanitized: test_images" build_and_run test_images tests/test_images.c "cpu_kernels.c cpu_fast.c" $dir/scratch
part "sanitized: test_acdit, float" build_and_run test_acdit tests/test_acdit.c "cpu_kernels.c cpu_fast.c"
part "sanitized: test_scores" build_and_run test_scores tests/test_scores.c ""
part "sanitized: test_maze" build_and_run test_maze tests/test_maze.c "cpu_kernels.c cpu_fast.c" $dir/scratch
part "sanitized: check" build_and_run bd3lm bd3lm.c "cpu_kernels.c cpu_fast.c" check $golden
part "sanitized: df check" build_and_run df df.c "cpu_kernels.c cpu_fast.c" check $(sh tests/supported.sh tests/golden/df)
part "sanitized: acdit check" build_and_run acdit acdit.c "cpu_kernels.c cpu_fast.c" check $(sh tests/supported.sh tests/golden/acdit)
part "sanitized: parity" build_and_run parity tests/parity.c cpu_kernels.c $dir/cpu64.so
part "sanitized: parity on emulated tiles" build_and_run parity_amx "-I. -Wno-psabi -DEMULATE_AMX tests/parity.c" cpu_kernels.c $dir/cpu64.so

# the CUDA kernels on the emulated device, under sanitizers: one order of threads, since fibres are slow there
san_emu="-O1 -g -fopenmp -fsanitize=address,undefined -fno-sanitize-recover=undefined"
if command -v g++ >/dev/null; then
    g++ -std=c++17 $san_emu -I. -x c++ -c cuda_kernels.cu -o $dir/cuda_emu.o
    emulated() { bin=$dir/$1; shift; src=$1; shift; gcc -std=gnu11 -fno-math-errno $san_emu -DWITH_CUDA -DCUDA_EMU $src cpu_kernels.c cpu_fast.c $dir/cuda_emu.o -o $bin -lm $zlib -ldl -lstdc++ && OMP_NUM_THREADS=1 $bin "$@"; }
    parity_emu() { gcc -std=gnu11 -fno-math-errno $san_emu -DWITH_CUDA -DCUDA_EMU -DQUICK tests/parity.c cpu_kernels.c $dir/cuda_emu.o -o $dir/parity_emu -lm -ldl -lstdc++ && OMP_NUM_THREADS=1 $dir/parity_emu $dir/cpu64.so; }
    part "sanitized: the emulator itself" sh -c "g++ -std=c++17 $san_emu -Wno-unknown-pragmas -x c++ tests/test_emu.cu -o $dir/test_emu && $dir/test_emu"
    part "sanitized: emulated CUDA kernels" parity_emu
    part "sanitized: emulated check" emulated bd3lm_emu bd3lm.c check --device cuda $golden
    part "sanitized: emulated check of acdit" emulated acdit_emu acdit.c check --device cuda tests/golden/acdit/sample_img_n1_cfg_paper.safetensors tests/golden/acdit/embed_d48.safetensors
    emulated_program() {
        small="--data README.md --vocab 30 --layers 1 --width 16 --heads 2 --length 16 --batch 1 --steps 2 --dropout 0.1 --device cuda --force"
        OMP_NUM_THREADS=1 && export OMP_NUM_THREADS && $dir/bd3lm_emu train $small --out $dir/emulated && $dir/bd3lm_emu sample --device cuda --out $dir/emulated --chars 6 &&
        $dir/bd3lm_emu sample --device cuda --out $dir/emulated --chars 6 --sampler ancestral --sampling-steps 4 && $dir/bd3lm_emu train $small --naive --out $dir/emulated && echo "1 passed, 0 failed"
    }
    part "sanitized: emulated program" emulated_program
else echo "         skipped: no g++ for the emulated CUDA kernels"
fi

# nvcc: no warning on any architecture, nothing in local memory
if command -v nvcc >/dev/null; then
    for arch in sm_75 sm_80 sm_90 sm_100; do
        nvcc --list-gpu-code 2>/dev/null | grep -qx $arch || { echo "         skipped: this nvcc does not know $arch"; continue; }
        part "nvcc $arch: no warnings" quiet nvcc -std=c++17 -O3 -arch=$arch -Xcompiler -Wall,-Wextra -c cuda_kernels.cu -o $dir/cuda_$arch.o
    done
    part "nvcc: registers, no stack, no spills" sh tests/kernel_table.sh
else echo "         skipped: no nvcc"
fi

make -s build/fuzz build/fuzz_df build/fuzz_acdit >/dev/null
part "100,000 broken files" build/fuzz $dir/scratch 100000 0 $golden
part "100,000 broken files of acdit" build/fuzz_acdit $dir/scratch 100000 0 $(sh tests/supported.sh tests/golden/acdit)
part "100,000 broken files of df" build/fuzz_df $dir/scratch 100000 0 $(sh tests/supported.sh tests/golden/df)

# kill -9, fifty times and more, at least 25 of them while a checkpoint is being written
make -s all build/kill >/dev/null
cat README.md NOTES.md bd3lm.c >$dir/text
rm -rf $dir/scratch/killed $dir/scratch/whole
part "kill -9 at random instants" build/kill $dir/scratch $dir/text 50 25

# a real file system with room for one checkpoint and a half (where one may be mounted): the old file stays, and with more room training goes on
disk_full() {
    mkdir -p $dir/disk
    unshare -m sh -c '
        d=$1/disk; mount -t tmpfs -o size=800k none $d || exit 9
        ./bd3lm train --data $1/text --vocab 40 --layers 2 --width 24 --heads 3 --length 24 --batch 4 --cond 5 --steps 4 --out $d/out >/dev/null || exit 1
        cp $d/out/bd3lm.safetensors $1/before
        ./bd3lm train --resume --steps 6 --out $d/out >/dev/null 2>$1/stderr; [ $? -eq 1 ] || exit 1
        [ "$(wc -l <$1/stderr)" -eq 1 ] && grep -q "cannot write .*bd3lm.safetensors: No space left" $1/stderr || exit 1
        cmp $1/before $d/out/bd3lm.safetensors && [ "$(ls $d/out | tr "\n" " ")" = "bd3lm.safetensors log.csv " ] || exit 1
        mount -o remount,size=4m $d && ./bd3lm train --resume --steps 6 --out $d/out >/dev/null' sh $dir
    status=$?
    [ $status -eq 0 ] && echo "1 passed, 0 failed" || { cat $dir/stderr; echo "0 passed, 1 failed"; }
}
if unshare -m mount -t tmpfs none $dir/scratch 2>/dev/null; then part "a full disk" disk_full; else echo "         skipped: no file system may be mounted here"; fi

# the program itself, as `make debug` builds it
debug_program() {
    make -s debug && ./bd3lm_debug train --data README.md --vocab 30 --width 24 --heads 3 --steps 3 --dropout 0.1 --out $dir/debug --force && ./bd3lm_debug eval --out $dir/debug &&
    ./bd3lm_debug eval --out $dir/debug --estimator masks --draws 2 --text 'some words' && ./bd3lm_debug eval --out $dir/debug --estimator exact --text 'some words' &&
    ./bd3lm_debug sample --out $dir/debug --samples 3 --chars 50 --sampler ancestral --sampling-steps 5 && ./bd3lm_debug sample --out $dir/debug --samples 3 --chars 50 --quality && ./bd3lm_debug check $golden >/dev/null && echo "1 passed, 0 failed"
}
part "make debug: train, eval, sample, check" debug_program
# all of df's command line on that build; what a refused run leaves in memory goes with it
df_debug_program() { make -s debug build/poison all && rm -rf $dir/scratch/cli_df && ASAN_OPTIONS=detect_leaks=0 DF=./df_debug sh tests/cli_df.sh $dir/scratch; }
part "make debug: the command line of df" df_debug_program

acdit_debug_program() { rm -rf $dir/scratch/cli_acdit && ASAN_OPTIONS=detect_leaks=0 ACDIT=./acdit_debug sh tests/cli_acdit.sh $dir/scratch; }
part "make debug: the command line of acdit" acdit_debug_program

# the fake device must catch a program that reads tensor memory itself
cat >$dir/stray.c <<'END'
#include "../../common.h"
int main(void) {
    begin_dry_run(); arena_take(&per_step, 64); end_dry_run(false); begin_step();
    real *x = arena_take(&per_step, 64);
    fill(x, 1, 4);
    return x[0] == 1 ? 0 : 1;
}
END
gcc -std=gnu11 -O0 -DFAKE_DEVICE $dir/stray.c cpu_kernels.c cpu_fast.c -o $dir/stray -lm
gcc -std=gnu11 -O0 $dir/stray.c cpu_kernels.c cpu_fast.c -o $dir/no_stray -lm
stray() { if $dir/no_stray && ! $dir/stray; then echo "1 passed, 0 failed"; else echo "0 passed, 1 failed"; fi; }
part "the fake device catches a stray read" stray

# a kernel without a parity test must not link
sed 's/static void parity_adamw(void)/static void forgotten(void)/' tests/parity.c >$dir/forgotten.c
forgotten() { if gcc -std=gnu11 -O0 -I tests -include kernels.h -iquote tests $dir/forgotten.c cpu_kernels.c -o $dir/forgotten -lm -ldl 2>/dev/null; then echo "0 passed, 1 failed"; else echo "1 passed, 0 failed"; fi; }
part "a kernel without its parity test does not link" forgotten

if [ -n "${GOLDEN:-}" ] && [ -d "${GOLDEN:-}" ]; then
    make -s all bd3lm_emu acdit_emu build/bd3lm64 build/df64 build/acdit64 >/dev/null
    df_golden=$(dirname "$GOLDEN")/df
    if [ -d "$df_golden" ]; then
        part "all golden files of $df_golden" ./df check $(sh tests/supported.sh "$df_golden")
        part "all golden files of $df_golden, in double" build/df64 check $(sh tests/supported.sh "$df_golden")
    fi
    acdit_golden=$(dirname "$GOLDEN")/acdit
    if [ -d "$acdit_golden" ]; then
        part "all golden files of $acdit_golden" ./acdit check $(sh tests/supported.sh "$acdit_golden")
        part "all golden files of $acdit_golden, in double" build/acdit64 check $(sh tests/supported.sh "$acdit_golden")
        part "all golden files of $acdit_golden, emulated CUDA" ./acdit_emu check --device cuda $(sh tests/supported.sh "$acdit_golden")
    fi
    part "all golden files of $GOLDEN, emulated CUDA" ./bd3lm_emu check --device cuda $(sh tests/supported.sh "$GOLDEN")
    part "all golden files of $GOLDEN" ./bd3lm check $(sh tests/supported.sh "$GOLDEN")
    part "all golden files of $GOLDEN, in double" build/bd3lm64 check $(sh tests/supported.sh "$GOLDEN")
    refused() {
        r=0 w=0
        for file in "$GOLDEN"/*.safetensors; do
            sh tests/supported.sh "$GOLDEN" | grep -q "$file" && continue
            ./bd3lm check "$file" >$dir/refused.txt 2>&1; [ $? -eq 1 ] && grep -q 'not supported: [a-z_]*=' $dir/refused.txt && r=$((r + 1)) || w=$((w + 1))
        done
        echo "$r passed, $w failed"
    }
    part "all other golden files of $GOLDEN are refused by name" refused
fi
echo "$passed passed, $failed failed"
[ $failed -eq 0 ] && [ $passed -gt 0 ]
