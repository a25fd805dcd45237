#!/bin/sh
# data/get.sh NAME...: fetches small data sets into data/cache/. Names: kjv wind
# Needs Debian/Ubuntu's apt-get (no root, nothing is installed). A file that is there already is left alone; a partial download never counts.
set -eu
cd "$(dirname "$0")"
mkdir -p cache

fail() { echo "data/get.sh: $*" >&2; exit 1; }

# unpack PACKAGE... into $work/root
unpack() {
    for package in "$@"; do
        (cd "$work" && apt-get download "$package" >"$work/log" 2>&1) || {
            apt-get update >"$work/log" 2>&1 || true                    # empty package lists; works as root only
            (cd "$work" && apt-get download "$package" >"$work/log" 2>&1) || return 1
        }
        for deb in "$work/$package"_*.deb; do dpkg -x "$deb" "$work/root" || return 1; done
    done
}

# keep FILE SHA256: cache/FILE.part becomes cache/FILE if it is the expected one
keep() {
    found=$(sha256sum <"cache/$1.part" | cut -d' ' -f1)
    [ "$found" = "$2" ] || { size=$(wc -c <"cache/$1.part"); rm -f "cache/$1.part"; fail "$1 is not the expected file ($size bytes, sha256 $found)"; }
    mv "cache/$1.part" "cache/$1"
    echo "data/cache/$1: $(wc -c <"cache/$1") bytes"
}

# The King James Bible, one verse a line: 4,137,850 bytes ASCII (public domain outside of the United Kingdom; package bible-kjv-text)
kjv() {
    [ -s cache/kjv.txt ] && { echo "data/cache/kjv.txt is there"; return; }
    by_hand="put any English text into data/cache/kjv.txt by hand, or pass --data FILE"
    command -v apt-get >/dev/null && command -v dpkg >/dev/null || fail "no apt-get here: $by_hand"
    unpack bible-kjv bible-kjv-text || fail "cannot download the package bible-kjv ($(tail -n 1 "$work/log")): $by_hand"
    # the reader needs libreadline and libtinfo: taken from the machine where it has them, otherwise unpacked beside it
    if ldd "$work/root/usr/bin/bible" 2>/dev/null | grep -q 'not found'; then unpack libreadline8 libtinfo6 || unpack libreadline8t64 libtinfo6 || fail "cannot download libreadline8, which the package bible-kjv needs"; fi
    libraries=$(find "$work/root" -name 'lib*.so*' -exec dirname {} \; | sort -u | tr '\n' ':')
    (cd "$work/root/usr/lib" && LD_LIBRARY_PATH="$libraries${LD_LIBRARY_PATH:-}" ../bin/bible -f 'Gen1:1-Rev22:21' </dev/null) | sed 's/^[^ ]* //' >cache/kjv.txt.part
    keep kjv.txt "$1"
}

# Irish wind, 1961-1978: 6574 days of mean speed (knots) at twelve stations (Haslett and Raftery 1989; package r-cran-gstat)
wind() {
    [ -s cache/wind.csv ] && { echo "data/cache/wind.csv is there"; return; }
    by_hand="put any series as CSV, dates in its first column, into data/cache/wind.csv by hand"
    command -v apt-get >/dev/null && command -v dpkg >/dev/null || fail "no apt-get here: $by_hand"
    unpack r-cran-gstat || fail "cannot download the package r-cran-gstat ($(tail -n 1 "$work/log")): $by_hand"
    command -v bzip2 >/dev/null || { unpack bzip2 || fail "cannot download bzip2, which is missing here"; PATH="$PATH:$work/root/bin:$work/root/usr/bin"; }
    # R's serialisation: behind the seven bytes "RDX2 X " all is big-endian words. A column is the word of its type (last byte 13: integers, 14: doubles), its
    # length, its numbers: first year, month, day, then the stations. A double is (1 + mantissa / 2^52) 2^(exponent - 1023), in two words; none is negative.
    bzip2 -dc "$work/root/usr/lib/R/site-library/gstat/data/wind.rda" | tail -c +8 | od -An -v -w4 -t u4 --endian=big | LC_ALL=C awk -v days=6574 '
        left == 0 {
            type = before % 256; before = $1
            if ($1 == days && (type == 13 || type == 14)) { column++; left = days * (type - 12); row = 0 }
            next
        }
        { left-- }
        type == 13 { x[column, ++row] = $1; next }
        left % 2   { high = $1; next }
        { x[column, ++row] = (1 + (high % 1048576 * 4294967296 + $1) / 4503599627370496) * 2 ^ (int(high / 1048576) % 2048 - 1023) }
        END {
            print "date,RPT,VAL,ROS,KIL,SHA,BIR,DUB,CLA,MUL,CLO,BEL,MAL"
            for (t = 1; t <= days; t++) {
                printf "19%02d-%02d-%02d", x[1, t], x[2, t], x[3, t]
                for (c = 4; c <= 15; c++) printf ",%.2f", x[c, t]
                print ""
            }
        }' >cache/wind.csv.part
    keep wind.csv "$1"
}

[ $# -gt 0 ] || fail "which data set? kjv, wind"
for name in "$@"; do
    work=$(mktemp -d)
    chmod 755 "$work"                                                   # apt-get's unprivileged helper writes here
    trap 'rm -rf "$work"' EXIT
    case $name in
    kjv)  kjv b5c4940bcfeee072c0935b5200d0f9d88a00a0199cb0961d16133458fcdfae5d ;;
    wind) wind b98d3d0a2535fc30f3890f984844f739e30a767af61d92a1757fc7340ee9507c ;;
    *)    fail "no data set '$name' (kjv, wind)" ;;
    esac
    rm -rf "$work"
done
