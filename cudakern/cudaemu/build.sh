#!/usr/bin/env bash
# Builds the emulated driver: build.sh OUT makes OUT/libcuda.so.1 and OUT/libnvidia-ml.so.1. Objects are kept in
# OUT/objects, so that a second run compiles only what has changed. CXX names another compiler.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=$(mkdir -p "${1:?usage: build.sh OUT}" && cd "$1" && pwd)
objects=$out/objects
cxx=${CXX:-g++}
flags=(-std=c++20 -O3 -g1 -fPIC -Wall -Wextra -fno-math-errno -fno-trapping-math -ffp-contract=off)
jobs=$(nproc)
mkdir -p "$objects"

# One build at a time in a directory; others wait and then find everything done.
exec 9>"$out/.lock"
flock 9

# stale OBJECT: it is not there, or something that it was made from is newer, or it was made in another way.
stale() {
	local object=$1 command=$2 file
	[ -e "$object" ] && [ -e "$object.d" ] && [ "$(cat "$object.how" 2>/dev/null)" = "$command" ] || return 0
	for file in $(sed -e 's/^[^:]*://' -e 's/\\$//' "$object.d"); do
		[ -e "$file" ] && ! [ "$file" -nt "$object" ] || return 0
	done
	return 1
}

# compile OBJECT SOURCE FLAG... compiles in the background what is stale.
compile() {
	local object=$objects/$1 source=$here/$2
	shift 2
	local command="$cxx ${flags[*]} $* -c $source"
	stale "$object" "$command" || return 0
	while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n || exit 1; done
	(
		rm -f "$object" "$object.how" # so that nothing old is linked if this fails
		$cxx "${flags[@]}" "$@" -MMD -MF "$object.d" -c "$source" -o "$object.new"
		mv -f "$object.new" "$object"
		printf '%s' "$command" >"$object.how"
	) &
}

finish() {
	local job
	for job in $(jobs -p); do wait "$job" || exit 1; done
}

wide=(-mavx2 -mfma -mf16c)
[ "$(uname -m)" = x86_64 ] || wide=()
cuda=() nvml=()
for source in "$here"/*.cc; do
	name=$(basename "$source" .cc)
	case $name in
	*_test) continue ;;
	nvml*)
		compile "$name.o" "$name.cc"
		nvml+=("$objects/$name.o")
		;;
	ops | ops_*) # handlers of instructions: for every processor, and for those with AVX2
		compile "$name.portable.o" "$name.cc" -DEMU_BUILD=portable
		cuda+=("$objects/$name.portable.o")
		if [ ${#wide[@]} -gt 0 ]; then
			compile "$name.avx2.o" "$name.cc" "${wide[@]}" -DEMU_BUILD=avx2
			cuda+=("$objects/$name.avx2.o")
		fi
		;;
	*)
		compile "$name.o" "$name.cc"
		cuda+=("$objects/$name.o")
		case $name in settings | control) nvml+=("$objects/$name.o") ;; esac
		;;
	esac
done
finish

# What cuda.h declares and nothing here defines is there all the same, and says NOT_SUPPORTED.
$cxx -E -P -x c "$here/../cuda/include/cuda.h" | grep -oE '\bcu[A-Z][A-Za-z0-9_]*\(' | tr -d '(' | sort -u \
	>"$objects/declared"
nm --defined-only "${cuda[@]}" 2>/dev/null | awk '$2 == "T" { print $3 }' | sort -u >"$objects/defined"
{
	echo '/* made by build.sh */'
	comm -23 "$objects/declared" "$objects/defined" | sed 's/.*/int &(void) { return 801; }/'
} >"$objects/rest.c"
${CC:-gcc} -x c -O1 -fPIC -c "$objects/rest.c" -o "$objects/rest.o"
echo '{ global: cu*; local: *; };' >"$objects/cuda.map"
echo '{ global: nvml*; local: *; };' >"$objects/nvml.map"

link() {
	local library=$1 map=$2
	shift 2
	$cxx -shared -Wl,-soname,"$library" -Wl,--version-script="$objects/$map" -Wl,-z,defs -o "$out/$library.new" "$@" \
		-ldl -lpthread
	mv -f "$out/$library.new" "$out/$library" # at once: programs that run keep the old one
}
link libcuda.so.1 cuda.map "${cuda[@]}" "$objects/rest.o"
link libnvidia-ml.so.1 nvml.map "${nvml[@]}"
