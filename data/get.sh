#!/bin/sh
# data/get.sh NAME...: fetches small data sets into data/cache/. Names: kjv
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

# The King James Bible, one verse a line: 4,137,850 bytes ASCII (public domain outside of the United Kingdom; package bible-kjv-text)
kjv() {
    sum=$1 target=cache/kjv.txt
    [ -s $target ] && { echo "data/$target is there"; return; }
    command -v apt-get >/dev/null && command -v dpkg >/dev/null || fail "no apt-get here: put any English text into data/$target by hand, or pass --data FILE"
    unpack bible-kjv bible-kjv-text || fail "cannot download the package bible-kjv ($(tail -n 1 "$work/log")): put any English text into data/$target by hand, or pass --data FILE"
    # the reader needs libreadline and libtinfo: taken from the machine where it has them, otherwise unpacked beside it
    if ldd "$work/root/usr/bin/bible" 2>/dev/null | grep -q 'not found'; then unpack libreadline8 libtinfo6 || unpack libreadline8t64 libtinfo6 || fail "cannot download libreadline8, which the package bible-kjv needs"; fi
    libraries=$(find "$work/root" -name 'lib*.so*' -exec dirname {} \; | sort -u | tr '\n' ':')
    (cd "$work/root/usr/lib" && LD_LIBRARY_PATH="$libraries${LD_LIBRARY_PATH:-}" ../bin/bible -f 'Gen1:1-Rev22:21' </dev/null) | sed 's/^[^ ]* //' >cache/kjv.part
    found=$(sha256sum <cache/kjv.part | cut -d' ' -f1)
    [ "$found" = "$sum" ] || { size=$(wc -c <cache/kjv.part); rm -f cache/kjv.part; fail "the text is not the expected one ($size bytes, sha256 $found)"; }
    mv cache/kjv.part $target
    echo "data/$target: $(wc -c <$target) bytes"
}

[ $# -gt 0 ] || fail "which data set? kjv"
for name in "$@"; do
    work=$(mktemp -d)
    chmod 755 "$work"                                                   # apt-get's unprivileged helper writes here
    trap 'rm -rf "$work"' EXIT
    case $name in
    kjv) kjv b5c4940bcfeee072c0935b5200d0f9d88a00a0199cb0961d16133458fcdfae5d ;;
    *)   fail "no data set '$name' (kjv)" ;;
    esac
    rm -rf "$work"
done
