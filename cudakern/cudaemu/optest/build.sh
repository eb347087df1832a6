#!/usr/bin/env bash
# Builds the tests of instructions: build.sh OUT makes OUT/optest of what ../build.sh OUT has compiled. What is not
# newer than its object is not compiled again.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=$(cd "${1:?usage: build.sh OUT, where ../build.sh has built}" && pwd)
objects=$out/objects
cxx=${CXX:-g++}
mkdir -p "$objects/optest"
exec 9>"$out/.lock"
flock 9
mine=() failed=0
for source in "$here"/*.cc; do
	object=$objects/optest/$(basename "$source" .cc).o
	mine+=("$object")
	newer=$(find "$source" "$here"/*.h "$here"/../{interp,memory,ptx,counts,loader,decode,machine,runs,ptx_lex}.h \
		-newer "$object" 2>/dev/null || echo all)
	[ -z "$newer" ] && [ -e "$object" ] && continue
	while [ "$(jobs -rp | wc -l)" -ge "$(nproc)" ]; do wait -n || failed=1; done
	$cxx -std=c++20 -O0 -g1 -Wall -Wextra -frounding-math -c "$source" -o "$object" &
done
for job in $(jobs -p); do wait "$job" || failed=1; done
[ "$failed" = 0 ] || exit 1
interpreter=()
for name in memory ptx_lex loader decode slots runs interp access checks counts; do
	interpreter+=("$objects/$name.o")
done
$cxx -o "$out/optest.new" "${mine[@]}" "${interpreter[@]}" "$objects"/ops*.o -lpthread
mv -f "$out/optest.new" "$out/optest"
