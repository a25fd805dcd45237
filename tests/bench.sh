#!/bin/sh
# tests/bench.sh BUILD: all measurements in one run, since on a shared machine numbers of different runs do not compare.
set -eu
sed -n 's/^model name[^:]*: */processor: /p' /proc/cpuinfo 2>/dev/null | head -n 1
"$1"/bench_kernels
"$1"/bench_steps S T P
sh tests/bench_df.sh
sh tests/bench_acdit.sh
if command -v python3 >/dev/null; then python3 tests/bench_peer.py; fi
