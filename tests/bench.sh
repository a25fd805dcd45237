#!/bin/sh
# Training and sampling speed of the demo's configuration, on all cores and on one. Numbers of one run: compare only within it.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
text=data/cache/kjv.txt; [ -s $text ] || text=bd3lm.c
for threads in 0 1; do
    echo "threads=$threads (0: all $(nproc) cores)"
    ./bd3lm train --data $text --out "$dir/bench" --force --steps 100 --threads $threads | tail -n 1
    ./bd3lm sample --out "$dir/bench" --samples 16 --threads $threads | tail -n 1
    ./bd3lm sample --out "$dir/bench" --samples 1 --threads $threads | tail -n 1
done
