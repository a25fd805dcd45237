#!/bin/sh
# tests/mutants.sh BUILD CXX...: breaks cuda_kernels.cu in one place at a time and asks the emulated parity tests, in all four thread orders, whether they notice.
# Removed are: every barrier; every < and >= outside of loop heads (< becomes always true, >= always false), which takes in every bounds test; and what the
# table below names. Caught: a check fails, or the emulator stops. A mutant that hangs is told as such, and counts as caught: it does not pass.
# A mutant that survives must stand in tests/mutants.txt with the reason why it changes nothing, and at most one in twenty may. Last line: `N passed, N failed`.
# From the environment: CC with its flags, LIBS; ONLY='kernel' takes the mutants of one kernel.
set -u
src=cuda_kernels.cu

# ---- one mutant: --one BUILD NUMBER CXX...
if [ "$1" = --one ]; then
    build=$2 number=$3 dir=$2/mutants; shift 3
    tab=$(printf '\t') row=$(sed -n "${number}p" "$dir/list")
    line=${row%%"$tab"*} rest=${row#*"$tab"} me=$dir/$number
    text=${rest%"$tab"*} what=${rest##*"$tab"}
    { head -n $((line - 1)) $src; printf '%s\n' "$text"; tail -n +$((line + 1)) $src; } >"$me.cu"
    kernels=$(tail -n +"$line" $src | awk '/__global__/ && n { exit } match($0, /^void [a-z_]+_cuda\(/) { n++; print substr($0, 6, RLENGTH - 11) }')     # whose launchers come next: asked first
    result=caught by= status=0
    if ! "$@" -c -o "$me.o" "$me.cu" 2>"$me.log"; then result='does not compile'
    elif ! $CC "$dir/parity.o" "$build/cpu_kernels.o" "$me.o" -o "$me" $LIBS 2>"$me.log"; then result='does not link'
    else
        for kernel in $kernels; do timeout 200 "$me" "$build/cpu64.so" "$kernel" >"$me.log" 2>&1; status=$?; [ $status -eq 0 ] || break; done
        [ $status -eq 0 ] && { timeout 900 "$me" "$build/cpu64.so" >"$me.log" 2>&1; status=$?; }
        [ $status -eq 0 ] && result=survived
        [ $status -eq 124 ] && result='timed out'
    fi
    [ "$result" = caught ] && by=$(grep -aE 'FAIL|cuda_emu' "$me.log" | head -n 1 | cut -c1-100)
    printf '%s\t%s\t%s\t%s\t%s\n' "$result" "$line" "$what" "$(printf '%s' "$text" | sed 's/^ *//')" "$by" >"$me.result"
    rm -f "$me" "$me.o" "$me.cu"
    exit 0
fi

# ---- the list: line number, the new text of this line, what was done, between tabs
build=$1 dir=$1/mutants; shift
rm -rf "$dir"; mkdir -p "$dir"
awk '
    function mutant(text, what) { printf "%d\t%s\t%s\n", NR, text, what }
    function in_loop_head(s,   i, at, depth, c) {       # does s end inside the head of a loop?
        for (i = 1; i <= length(s); i++) if (substr(s, i, 5) == "for (") at = i + 4
        if (!at) return 0
        for (i = at; i <= length(s); i++) { c = substr(s, i, 1); depth += (c == "(") - (c == ")"); if (!depth) return 0 }
        return 1
    }
    /^#|^void |^enum |^struct |^template .* static (void|bool)|^static (int|unsigned|void|bool|Drop) / { kernel = 0 }
    /__global__|^__device__|^template .*__device__/ { kernel = 1 }
    !kernel || /^ *\/\// { next }
    {
        code = $0; sub(/ *\/\/.*/, "", code); tail = substr($0, length(code) + 1)
        if (code ~ /__syncthreads\(\);/) { t = code; sub(/__syncthreads\(\);/, "", t); mutant(t tail, "barrier removed") }
        if (code ~ /!__syncthreads_or\(/) { t = code; sub(/!__syncthreads_or\(/, "false \\&\\& (", t); mutant(t tail, "barrier removed") }
        head = ""; rest = code
        while (match(rest, / (<|>=) /)) {
            head = head substr(rest, 1, RSTART + RLENGTH - 1); rest = substr(rest, RSTART + RLENGTH)
            if (!in_loop_head(head) && head !~ /template *< $/) mutant(head "1000000000 + " rest tail, "bound removed")
        }
    }
' $src >"$dir/list"
while IFS='~' read -r what from to; do                  # a pattern that stands on exactly one line, and what takes its place (extended regular expressions)
    case $what in ''|'#'*) continue ;; esac
    line=$(grep -nE -- "$from" $src | cut -d: -f1)
    case $line in ''|*[!0-9]*) echo "mutants.sh: '$from' stands on other than one line of $src: $(echo $line)"; exit 1 ;; esac
    printf '%s\t%s\t%s\n' "$line" "$(sed -nE "${line}s~$from~$to~p" $src)" "$what" >>"$dir/list"
done <<'TABLE'
embedding: another row of the same id~__ffs\(\(int\)same\) - 1~__ffs((int)same)
embedding: only every second row added~same &= same - 1~same \&= same - 1, same \&= same - 1
levels: frequency doubled~\* k / half\)~* k * 2 / half)
levels: sine for cosine~c < half \? cospi\(turns\) : sinpi\(turns\)~c < half ? sinpi(turns) : cospi(turns)
GELU: cubic term~if \(a == GELU\) return x/2 \* \(1 \+ tanhf\(0.7978845608f \* \(x \+ 0.044715f~if (a == GELU) return x/2 * (1 + tanhf(0.7978845608f * (x + 0.044615f
GELU': last factor~\(1 \+ 3\*0.044715f\*x\*x\)~(1 + 0.044715f*x*x)
SiLU': sign~sig \+ x\*sig\*\(1 - sig\)~sig - x*sig*(1 - sig)
exact GELU: argument~x/2 \* erfcf\(x \* -0.70710678f\)~x/2 * erfcf(x * -0.7f)
exact GELU': second term~ \+ x \* expf\(-x\*x/2\) \* 0.39894228f~
ReLU: NaN lost~return x <= 0 \? 0 : x;~return x > 0 ? x : 0;
ReLU': slope at 0~return x > 0 \? 1 : x <= 0 \? 0 : x~return x >= 0 ? 1 : x <= 0 ? 0 : x
ELU: exponential~return x > 0 \? x : expm1f\(x\)~return x > 0 ? x : expf(x)
ELU': slope~return x > 0 \? 1 : expf\(x\)~return x > 0 ? 1 : expm1f(x)
product: bias dropped~if \(p.bias\) sum \+= p.bias\[n\];~
product: pre not kept~if \(p.pre\) p.pre\[at\] = sum;~
product: overwrites a gradient~p.c\[at\] \+= sum; return;~p.c[at] = sum; return;
product: pieces exchanged~as\[half \^ 1\], next_a\)~as[half], next_a)
product: the next piece fetched twice~p.M, k0 \+ DEPTH, k1\)~p.M, k0, k1)
product: last split forgotten~z < splits; z\+\+~z < splits - 1; z++
product: splits overlap~k0 = blockIdx.z \* each~k0 = blockIdx.z * (each - 1)
few rows: wrong row of a~\(m0 \+ i\)\*p.lda \+ k\] \* b~(m0 + i \/ 2)*p.lda + k] * b
columns: one runner forgotten~y < RUNNERS; y\+\+~y < RUNNERS - 1; y++
block sum: one warp forgotten~w < \(int\)blockDim.x / 32~w < (int)blockDim.x / 32 - 1
norm: eps dropped~/ C \+ eps~\/ C
norm: 1 + scale becomes scale~y \* \(1 \+ scale_g\[~y * (scale_g[
norm: shift dropped~\(1 \+ scale_g\[c\]\) \+ by~(1 + scale_g[c])
norm: bias dropped~ : y \+ by;~ : y;
norm: shift for modulated rows only~shift_g = shift && g >= 0~shift_g = shift \&\& scale \&\& g >= 0
norm: RMS subtracts the mean~if \(mean\) for \(int c = lane; c < C; c \+= 32\) m \+=~for (int c = lane; c < C; c += 32) m +=
norm backward: no gradient for a bias~\(dshift \|\| dscale \? G : 0\)~(dscale ? G : 0)
norm backward: mean dropped~\(dxhat - sum - ~(dxhat - 
norm backward: RMS keeps the mean of dxhat~sum = mean \? sum_lanes\(sum, 32\) / C : 0,~sum = sum_lanes(sum, 32) / C,
norm backward: xhat mean dropped~ - \(x_n\[c\] - m\) \* r \* dot\)~)
product: overwrites a gradient~LINEAR_ONLY, add\};~LINEAR_ONLY, false};
sum: one operand dropped~float sum = x\[i\] \+ y\[i\];~float sum = x[i];
sum: kept after the activation~if \(pre\) pre\[i\] = sum;~if (pre) pre[i] = act(sum, a);
norm backward: weight dropped from dscale~sum_xhat \* weight\[c\]~sum_xhat
norm backward: scale dropped from dweight~d \* \(1 \+ scale\[\(size_t\)g\*ld \+ c\]\) \* xhat : d \* xhat~d * xhat : d * xhat
head norm: eps dropped~sum_lanes\(sum, 32\) / HS \+ eps~sum_lanes(sum, 32) / HS
head norm: weight dropped~x_nh\[c\] = x_nh\[c\] \* r \* weight\[c\];~x_nh[c] = x_nh[c] * r;
head norm: every head of a row is its first~\*x_nh = x \+ at / heads \* ld \+ at % heads \* HS~*x_nh = x + at / heads * ld
head norm: kept in the place of another~kept\[at\*HS \+ c\] = x_nh\[c\];~kept[at \/ heads * HS + c] = x_nh[c];
head norm backward: rstd dropped from dweight~\* kept\[at\*HS \+ c\] \* rstd\[at\]~* kept[at*HS + c]
head norm backward: one runner for all heads~at < all; at \+= RUNNERS\) sum~at < all; at += RUNNERS * heads) sum
head norm backward: overwrites a gradient~if \(c < HS && threadIdx.y == 0\) dweight\[c\] \+= sum~if (c < HS \&\& threadIdx.y == 0) dweight[c] = sum
head norm backward: weight dropped~r \* \(dx_nh\[c\] \* weight\[c\] - ~r * (dx_nh[c] - 
head norm backward: xhat mean dropped~ - x_nh\[c\] \* r \* dot\)~)
head norm backward: weight dropped from the mean~dot \+= dx_nh\[c\] \* weight\[c\] \* x_nh~dot += dx_nh[c] * x_nh
head norm: not turned~if \(cosine\) rope_forward_cuda~if (!cosine) rope_forward_cuda
head norm backward: not turned back~if \(cosine\) rope_backward_cuda~if (!cosine) rope_backward_cuda
rope: sign~BACK \? a\*cos_p\[i\] \+ b\*sin_p\[j\]~BACK ? a*cos_p[i] - b*sin_p[j]
rope: angle of the other element~b\*cos_p\[j\] \+ a\*sin_p\[j\]~b*cos_p[j] + a*sin_p[i]
attention: scale dropped~\? s\[i\]\[j\] \* a.scale~? s[i][j]
attention: sums not made smaller~sum\[i\] \*= shrink, ~
attention: output not made smaller~out\[i\]\[e\] \*= shrink~out[i][e] *= 1
attention: lse without the maximum~= top\[i\] \+ logf\(total\)~= logf(total)
attention: not divided~out\[i\]\[e\] / total~out[i][e]
attention: second interval ignored~return \(j >= s.lo\[0\] && j < s.hi\[0\]\) .*; \}~return j >= s.lo[0] \&\& j < s.hi[0]; }
attention: tiles skipped by the first interval~max\(s.lo\[0\], from\) < min\(s.hi\[0\], to\) .*;~max(s.lo[0], from) < min(s.hi[0], to);
attention: everything up to Tk read~end = max\(end, spans\[r\].hi\[p\]\)~end = a.Tk
attention: one product of four dropped~ \+ ai.w\*bj\[j\].w~
attention: one key of four dropped~ \+ pi.w\*b_j\[3\*Tile<D>::LD\]~
attention backward: delta dropped~ - delta\[query\]\) : 0~) : 0
attention backward: lse dropped~ - lse\[query\]\) : 0~) : 0
attention backward: scale dropped from dk~a.dk\[at_k \+ \(size_t\)t\*a.ldkv \+ d\] \+= a.scale \* sum1~a.dk[at_k + (size_t)t*a.ldkv + d] += sum1
attention backward: scale dropped from dq~else a.dq\[at_q \+ \(size_t\)t\*a.ldq \+ d\] \+= a.scale \* sum1~else a.dq[at_q + (size_t)t*a.ldq + d] += sum1
attention backward: naive, scale dropped~else a.dq\[row_q \+ d\] \+= a.scale \* ds~else a.dq[row_q + d] += ds
dropout: limit moved~ceil\(d.p \* 4294967296.0\)~ceil(d.p * 4294967296.0 * 1.01)
dropout: not made larger~\(float\)\(1 / \(1 - d.p\)\)~1
dropout: one word for two columns~k == 1 \? f.y~k == 1 ? f.x
residual: gate dropped~k < columns && gate && g >= 0 \?~k < columns \&\& gate \&\& g < -5 ?
residual backward: gate gets no dropout~component\(dropout_factors\(drop, \(size_t\)n \* \(\(C \+ 3\) / 4\) \+ c / 4\), c % 4\) \* branch~branch
rows: stored one slot off~\(i / C / T \* W \+ i / C % T\)~(i \/ C \/ T * W + i \/ C % T + 1)
rows: taken as if all were meant~inp\[\(i / C / T \* S \+ i / C % T\)~inp[(i \/ C \/ T * T + i \/ C % T)
columns: overwrites a gradient~if \(ADD\) to\[n\*ld_to \+ c\] \+= ~if (ADD) to[n*ld_to + c] = 
columns: distance of the other side~else to\[n\*ld_to \+ c\] = from\[n\*ld_from~else to[n*ld_to + c] = from[n*ld_to
gru: gates exchanged~out\[i\] = \(1 - keep\) \* fresh \+ keep \* h\[i\];~out[i] = keep * fresh + (1 - keep) * h[i];
gru backward: tanh dropped~\(1 - keep\) \* \(1 - fresh\*fresh\)~(1 - keep)
gru backward: keep dropped~keep \* \(1 - keep\), dfresh~(1 - keep), dfresh
gru backward: reset dropped~dfresh \* gh\[m\] \* reset \* \(1 - reset\)~dfresh * gh[m] * (1 - reset)
gru backward: fresh without reset~dgh\[m\] \+= dfresh \* reset~dgh[m] += dfresh
gru backward: state overwritten~if \(dh\) dh\[i\] \+= ~if (dh) dh[i] = 
gaussian: radius~sqrt\(-2 \* log\(unit~sqrt(-log(unit
gaussian: one uniform number twice~turns = 2 \* unit\(x.w\[2\], x.w\[3\]\)~turns = 2 * unit(x.w[0], x.w[1])
gaussian: half a circle~turns = 2 \* unit~turns = unit
gaussian: limited on one side~fmin\(fmax\(radius \* sinpi\(turns\), -most\), most\)~fmin(radius * sinpi(turns), most)
square error: weight of the row's first part~sum \+= error\[i\] = \(float\)\(weight\[i / C \* P \+ i % C / \(C/P\)\]~sum += error[i] = (float)(weight[i / C * P]
square error: not squared~i % C / \(C/P\)\] \* d \* d\)~i % C / (C/P)] * d)
square error: scale dropped~\*out = \(T\)\(scale \* sum\)~*out = (T)sum
square error backward: factor 2 dropped~\(float\)\(2 \* \*dloss \* scale~(float)(*dloss * scale
square error backward: overwrites a gradient~if \(i < size\) dpred\[i\] \+= ~if (i < size) dpred[i] = 
square error backward: weight of another part~\* scale \* weight\[i / C \* P \+ i % C / \(C/P\)\]~* scale * weight[i / C * P + i % P]
cross-entropy: not made smaller at a new maximum~sum = sum \* expf\(top - s\) \+ 1~sum = sum + 1
cross-entropy: join without the second~\+ sum2 \* expf\(top2 - most\)~
cross-entropy: excluded entry counted~if \(v == excluded\) continue;~
cross-entropy: one warp forgotten~w < 8; w\+\+\) join~w < 7; w++) join
cross-entropy: scale dropped~\*loss = \(float\)\(scale \* sum\)~*loss = (float)sum
cross-entropy backward: one-hot dropped~ - \(v == target\[n\]\)\)~)
cross-entropy backward: scale dropped~\(float\)\(\*dloss \* scale \* weight~(float)(*dloss * weight
parts: one forgotten~p < parts; p \+= 256~p < parts - 1; p += 256
adamw: bias correction of v dropped~v_i \* a.v_scale~v_i
adamw: decay dropped~ \+ a.decay \* p;~;
adamw: average from the old weight~a.keep \* \(p - ema\[i\]\)~a.keep * (param[i] * 0.999f - ema[i])
adamw: never clipped~clip < 1 \? clip : 1~1
nucleus: one tie more~before \+ \(rank \+ 1\) \* e <= limit~before + rank * e <= limit
nucleus: ties without the warps before~rank \+= w < i / 32~rank += w < 0
nucleus: not renormalised~p_n\[v\] /= running~p_n[v] /= 1
nucleus: stops too early~not_out - ahead > 1;~not_out - ahead > 2;
categorical: u of another row~while \(k < 256 && !\(u\[n\]~while (k < 256 \&\& !(u[0]
categorical: the last possible forgotten~possible = max\(possible, last\[k\]\), ~
TABLE
if [ -n "${ONLY:-}" ]; then
    sort -n "$dir/list" >"$dir/all"
    awk -F'\t' -v only="$ONLY" -v src=$src 'BEGIN { while ((getline l < src) > 0) { n++; if (match(l, /^void [a-z_]+_cuda\(/)) { name = substr(l, 6, RLENGTH - 11); while (done < n) owner[++done] = name } } } owner[$1] ~ only' "$dir/all" >"$dir/list"
fi

# ---- run them
$CC -DWITH_CUDA -DCUDA_EMU -DSTOP_AT_FIRST -c tests/parity.c -o "$dir/parity.o" || exit 1
export OMP_NUM_THREADS=1
# the control: the kernels as they are pass, or nothing below would mean anything
"$@" -c -o "$dir/original.o" $src && $CC "$dir/parity.o" "$build/cpu_kernels.o" "$dir/original.o" -o "$dir/original" $LIBS && "$dir/original" "$build/cpu64.so" >"$dir/original.log" 2>&1 \
    || { echo "mutants.sh: the tests fail without a mutant"; tail -n 5 "$dir/original.log"; exit 1; }
total=$(wc -l <"$dir/list")
seq "$total" | xargs -P "$(getconf _NPROCESSORS_ONLN)" -I '{}' sh "$0" --one "$build" '{}' "$@"
sort -t"$(printf '\t')" -k2n "$dir"/*.result >"$dir/results"
passed=0 survived=0
while IFS="$(printf '\t')" read -r result line what text by; do
    case $result in
        caught) passed=$((passed + 1)) ;;
        'timed out') passed=$((passed + 1)); echo "hangs: line $line: $what: $text" ;;
        survived)
            survived=$((survived + 1))
            if grep -qxF -- "$text" tests/mutants.txt; then passed=$((passed + 1)); echo "survived, as listed: line $line: $what: $text"; else echo "FAIL  survived: line $line: $what: $text"; fi ;;
        *) echo "FAIL  $result: line $line: $what: $text" ;;
    esac
done <"$dir/results"
if [ -z "${ONLY:-}" ]; then                             # a line of the list that no survivor needs any more is out of date
    grep -v '^#' tests/mutants.txt | while IFS= read -r text; do grep -qF -- "survived$(printf '\t')" "$dir/results" && cut -f1,4 "$dir/results" | grep -qxF -- "survived$(printf '\t')$text" || echo "FAIL  tests/mutants.txt lists what does not survive: $text"; done >"$dir/stale"
    cat "$dir/stale"
    passed=$((passed - $(wc -l <"$dir/stale")))
fi
echo "$total mutants, $((total - survived)) caught, $survived survived"
[ $((survived * 20)) -le "$total" ] || { echo "FAIL  more than one in twenty survived"; passed=$((passed - 1)); }
echo "$passed passed, $((total - passed)) failed"
[ $passed -eq "$total" ] && [ "$total" -gt 0 ]
