#!/bin/sh
# tests/kernel_table.sh [--write]: registers, shared memory, stack and spills of every CUDA kernel, as nvcc reports them for sm_80 and sm_90, and an
# estimate of the least time of a training step on an H100 by arithmetic and memory traffic. --write puts both tables into NOTES.md. Fails if a kernel keeps anything in local memory.
set -u
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
for arch in 80 90; do
    nvcc -O3 -std=c++17 -arch=sm_$arch -Xptxas -v -c cuda_kernels.cu -o "$dir/o" 2>"$dir/log" || { cat "$dir/log"; exit 1; }
    c++filt <"$dir/log" | sed -E 's/ptxas info +: //' | awk -v arch=$arch '
        /Compiling entry function/ { match($0, /'"'"'[^'"'"']*/); name = substr($0, RSTART + 1, RLENGTH - 1); sub(/^void /, "", name); sub(/\(.*/, "", name) }
        /bytes stack frame/ { local = $1 + $5 + $9 }
        /^Used/ { shared = 0; for (i = 2; i < NF; i++) if ($(i + 1) == "bytes" && $(i + 2) ~ /^smem/) shared = $i; print name "\t" arch "\t" $2 "\t" shared "\t" local }'
done >"$dir/kernels"
grep -oE '[a-z_]+_kernel' cuda_kernels.cu | awk '!seen[$0]++ { print NR "\t" $0 }' >"$dir/order"       # as they stand in the file
{
    echo "| kernel | registers on sm_80, sm_90 | static shared memory, bytes | local memory, bytes |"
    echo "|---|---|---|---|"
    awk -F'\t' 'NR == FNR { place[$2] = $1; next }
        { if (!($1 in at)) name[++n] = $1; at[$1] = 1; registers[$1] = registers[$1] (registers[$1] == "" ? "" : ", ") $3; shared[$1] = $4; kept[$1] += $5 }
        END { for (i = 1; i <= n; i++) { base = name[i]; sub(/<.*/, "", base); printf "%05d\t| `%s` | %s | %s | %d |\n", place[base], name[i], registers[name[i]], shared[name[i]], kept[name[i]] } }' \
        "$dir/order" "$dir/kernels" | LC_ALL=C sort | cut -f2
} >"$dir/registers.md"

# One step of P: 12 layers, C 768, NH 12, T 1024 doubled, blocks of 16, batch 16, V 50258; half of the noisy tokens are masked. Every array from memory once.
# N rows go through the network, M of them are predicted; the last layer makes keys and values of all, and everything else of these M. W: weights of a layer.
awk 'BEGIN {
    L = 12; C = 768; V = 50258; T = 1024; B = 16; N = 2*B*T; M = B*T/2; HS = 64; pairs = 0.254 * (2*T)^2 * B * 12 * (L - 1 + 1/4); W = 12*C^2; params = 2*V*C + L*W
    flops = 67e12; memory = 3.35e12
    R = (L - 1)*N + M                                   # rows in all layers, of what the last layer does for M rows
    print "| kernel | GFLOP a step | GB a step | bound by | least time, ms |\n|---|---|---|---|---|"
    products = 2 * (R*10*C^2 + L*N*2*C^2 + M*C*V)
    row("linear_forward", products, 4 * (R*17*C + L*N*3*C + L*W + M*C + C*V + M*V))
    row("linear_backward_inp", products, 4 * (R*18*C + L*N*5*C + L*W + 2*M*C + C*V + M*V))
    row("linear_backward_weight", products, 4 * (R*13*C + L*N*3*C + 2*L*W + M*C + 2*C*V + M*V))
    row("attention_forward", pairs * 4*HS, 4 * (2*R*C + 2*L*N*C))
    row("attention_backward", pairs * 14*HS, 4 * (5*R*C + 8*L*N*C))
    row("norm_modulate_forward", 0, 8*(R + L*N)*C)
    row("norm_modulate_backward", 0, (16 + 8 + 8)*(R + L*N)*C)
    row("rope_forward, rope_backward", 0, 2*8*(R + L*N)*C)
    row("gated_residual_forward", 0, 2*12*R*C)
    row("gated_residual_backward", 0, 2*(8 + 8)*R*C)
    row("activation_backward", 0, 16*R*4*C)
    row("fill", 0, 4 * (params + R*6*C))
    row("cross_entropy_forward, cross_entropy_backward", 0, (4 + 8)*M*V)
    row("sum_squares", 0, 4*params)
    row("adamw", 0, 36*params)
    printf "| together | %.0f | %.1f | | %.1f: at most %.0f tokens/s |\n", all_flop / 1e9, all_bytes / 1e9, all * 1e3, B*T / all
}
function row(name, flop, bytes,   a, m) {
    a = flop / flops; m = bytes / memory
    gsub(/[a-z_]+/, "`&`", name)
    printf "| %s | %.0f | %.1f | %s | %.2f |\n", name, flop / 1e9, bytes / 1e9, (a > m ? "arithmetic" : "memory"), (a > m ? a : m) * 1e3
    all += a > m ? a : m; all_flop += flop; all_bytes += bytes
}' >"$dir/roofline.md"

cat "$dir/registers.md" "$dir/roofline.md"
if [ "${1:-}" = --write ]; then
    for table in registers roofline; do
        grep -q "<!-- $table -->" NOTES.md || { echo "NOTES.md has no place for $table"; exit 1; }
        awk -v table=$table -v file="$dir/$table.md" '$0 == "<!-- end of " table " -->" { off = 0 } !off { print } $0 == "<!-- " table " -->" { while ((getline line < file) > 0) print line; off = 1 }' NOTES.md >"$dir/notes" && cat "$dir/notes" >NOTES.md
    done
fi
bad=$(awk -F'\t' '$5 != 0' "$dir/kernels" | wc -l) all=$(wc -l <"$dir/kernels")
echo "$((all - bad)) passed, $bad failed"
[ "$bad" -eq 0 ] && [ "$all" -gt 0 ]
