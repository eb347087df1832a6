#!/usr/bin/env bash
# Builds the driver shim: build.sh OUT makes OUT/libcuda.a from the functions that ../include/cuda.h declares.
# CC and AR name other tools, as for a cross build.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${1:?usage: build.sh OUT}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cc=${CC:-gcc}

# cuInit is the shim's own, in driver.c.
$cc -E -P -x c "$here/../include/cuda.h" | grep -oE '\bcu[A-Z][A-Za-z0-9_]*\(' | tr -d '(' | sort -u |
	sed -e '/^cuInit$/d' -e 's/.*/FUNCTION(&)/' >"$work/functions.inc"
[ -s "$work/functions.inc" ] || { echo "build.sh: no function found in $here/../include/cuda.h" >&2; exit 1; }

$cc -c -I"$work" "$here/trampolines.S" -o "$work/trampolines.o"
$cc -c -std=c11 -O2 -fPIC -Wall -Wextra -I"$work" "$here/driver.c" -o "$work/driver.o"
${AR:-ar} crs "$work/libcuda.a" "$work/trampolines.o" "$work/driver.o"
mkdir -p "$out"
mv -f "$work/libcuda.a" "$out/libcuda.a.$$"
mv -f "$out/libcuda.a.$$" "$out/libcuda.a" # at once, so that a build beside this one never sees half of it
