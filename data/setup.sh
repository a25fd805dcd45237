#!/bin/sh
# data/setup.sh [COMPILER]: what the build needs beyond this very shell: a C compiler and the C library's headers. Installs them from Debian's packages
# where root or password-less sudo allows, otherwise names them in one line. Nothing to do where a C program compiles already.
set -eu
cc=${1:-gcc}
works() { printf '#include <stdio.h>\n#include <math.h>\nint main(void) { return 0; }\n' | "$cc" -x c - -o /dev/null -lm 2>/dev/null; }
works && exit 0
packages="$cc libc6-dev"
root=
[ "$(id -u)" = 0 ] || { sudo -n true 2>/dev/null && root=sudo; } || { echo "set-up: please install these packages, then run this again: $packages" >&2; exit 1; }
command -v apt-get >/dev/null || { echo "set-up: no apt-get here; please install a C compiler ($cc) and the C library's headers" >&2; exit 1; }
$root apt-get update >/dev/null && $root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $packages >/dev/null
works || { echo "set-up: $cc still does not compile" >&2; exit 1; }
echo "set-up: installed $packages"
