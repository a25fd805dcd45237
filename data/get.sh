#!/bin/sh
# data/get.sh NAME...: fetches small data sets into data/cache/. Names: kjv wind fashion emoji
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

# keep FILE SHA256 [FILTER]: cache/FILE.part becomes cache/FILE if it, or what the filter makes of it, is the expected one
keep() {
    found=$(${3:-cat} <"cache/$1.part" | sha256sum | cut -d' ' -f1)
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

# Fashion-MNIST: 60,000 + 10,000 grey pictures of 28 x 28, ten classes (Xiao, Rasul and Vollgraf 2017; package dataset-fashion-mnist). Known by what gzip has packed.
fashion() {
    missing=
    for file in train-images-idx3 train-labels-idx1 t10k-images-idx3 t10k-labels-idx1; do [ -s cache/fashion-mnist/$file-ubyte.gz ] || missing="$missing $file"; done
    [ "$missing" ] || { echo "data/cache/fashion-mnist is there"; return; }
    by_hand="put the four files of Fashion-MNIST, or of another set in MNIST's format, into data/cache/fashion-mnist by hand"
    command -v apt-get >/dev/null && command -v dpkg >/dev/null || fail "no apt-get here: $by_hand"
    unpack dataset-fashion-mnist || fail "cannot download the package dataset-fashion-mnist ($(tail -n 1 "$work/log")): $by_hand"
    mkdir -p cache/fashion-mnist
    for file in $missing; do
        cp "$work/root/usr/share/datasets/fashion-mnist/$file-ubyte.gz" "cache/fashion-mnist/$file-ubyte.gz.part"
        case $file in train-images*) sum=$1 ;; train-labels*) sum=$2 ;; t10k-images*) sum=$3 ;; *) sum=$4 ;; esac
        keep "fashion-mnist/$file-ubyte.gz" "$sum" 'gzip -dc'
    done
}

# Noto Color Emoji: a font of 3,926 glyphs of 136 x 128 as PNGs (package fonts-noto-color-emoji)
emoji() {
    [ -s cache/NotoColorEmoji.ttf ] && { echo "data/cache/NotoColorEmoji.ttf is there"; return; }
    by_hand="put NotoColorEmoji.ttf, the one with PNGs in it, into data/cache by hand"
    command -v apt-get >/dev/null && command -v dpkg >/dev/null || fail "no apt-get here: $by_hand"
    unpack fonts-noto-color-emoji || fail "cannot download the package fonts-noto-color-emoji ($(tail -n 1 "$work/log")): $by_hand"
    cp "$work/root/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf" cache/NotoColorEmoji.ttf.part
    keep NotoColorEmoji.ttf "$1"
}

[ $# -gt 0 ] || fail "which data set? kjv, wind, fashion, emoji"
for name in "$@"; do
    work=$(mktemp -d)
    chmod 755 "$work"                                                   # apt-get's unprivileged helper writes here
    trap 'rm -rf "$work"' EXIT
    case $name in
    kjv)   kjv b5c4940bcfeee072c0935b5200d0f9d88a00a0199cb0961d16133458fcdfae5d ;;
    wind)  wind b98d3d0a2535fc30f3890f984844f739e30a767af61d92a1757fc7340ee9507c ;;
    fashion)
        fashion c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888 bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9 \
                5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b 0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34 ;;
    emoji) emoji e5899ed38b8ed83e08bd3ac5de09791e9d19d288333a796de1d35ad17396f1ec ;;
    *)     fail "no data set '$name' (kjv, wind, fashion, emoji)" ;;
    esac
    rm -rf "$work"
done
