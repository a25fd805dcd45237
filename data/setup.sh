#!/bin/sh
# data/setup.sh [COMPILER]: what the build needs beyond this very shell, a C compiler and the C library's headers, and what it is poorer without:
# stb (pictures as PNG), zlib (gzip'ed data) and gnuplot (curves). Installs what is missing from Debian's packages where root or password-less sudo allows,
# otherwise names it in one line. Only a missing compiler is an error. Nothing to do where all is there.
set -eu
cc=${1:-gcc}
works() { printf '#include <stdio.h>\n#include <math.h>\nint main(void) { return 0; }\n' | "$cc" -x c - -o /dev/null -lm 2>/dev/null; }
optional() {                                            # packages that are missing
    echo '#include <stb/stb_image_write.h>' | "$cc" -x c -fsyntax-only - 2>/dev/null || echo libstb-dev
    echo '#include <zlib.h>' | "$cc" -x c -fsyntax-only - 2>/dev/null || echo zlib1g-dev
    command -v gnuplot >/dev/null || echo gnuplot-nox
}
required=
works || required="$cc libc6-dev"
wanted=$(optional | xargs)
[ "$required$wanted" ] || exit 0

poorer() { echo "set-up: without stb no pictures, without zlib no gzip'ed data, without gnuplot no curves; everything else works. Missing packages: $*" >&2; }
give_up() { [ -z "$required" ] || { echo "set-up: $1: $required $wanted" >&2; exit 1; }; poorer "$wanted"; exit 0; }
root=
[ "$(id -u)" = 0 ] || { sudo -n true 2>/dev/null && root=sudo; } || give_up "please install these packages, then run this again"
command -v apt-get >/dev/null || give_up "no apt-get here; please install a C compiler and the C library's headers, which Debian calls"
install() { $root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" >/dev/null; }
$root apt-get update >/dev/null || give_up "apt-get update fails; missing packages"
[ -z "$required" ] || install $required
works || { echo "set-up: $cc still does not compile" >&2; exit 1; }
for package in $(optional); do install "$package" || true; done
missing=$(optional | xargs)
[ -z "$missing" ] || poorer "$missing"
installed=
for package in $required $wanted; do case " $missing " in *" $package "*) ;; *) installed="$installed $package" ;; esac; done
[ -z "$installed" ] || echo "set-up: installed$installed"
