# shellcheck shell=bash
# Set-up shared by the scripts of this directory; sourced, not run. Everything is safe to do twice, after being killed
# at any point, and quick the second time. It installs on Debian 12 and 13 and uses what is there on any other system.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# What the CPU engine is built from.
# shellcheck disable=SC2034 # used by the scripts that source this one
engine=(g++ libdnnl-dev)

# The oldest Go that can fetch the toolchain go.mod asks for.
go_least=21

say() { printf '%s\n' "$*" >&2; }
die() {
	say "${0##*/}: $*"
	exit 1
}

# need THING... makes usable what is named: go, in the version that go.mod asks for, or a Debian package. All that is
# missing is installed by one command: as root, else through sudo, else it is printed for somebody who may.
need() {
	local thing missing=() go=""
	for thing in "$@"; do
		if [ "$thing" != go ]; then
			have "$thing" || missing+=("$thing")
			continue
		fi
		go=1
		have ca-certificates || missing+=(ca-certificates) # to fetch Go modules
		find_go || missing+=("$(debian_go)")
	done
	[ -w "$root" ] || die "no right to write in $root; make a clone of your own"
	[ ${#missing[@]} -eq 0 ] || install_packages "${missing[@]}"
	[ -z "$go" ] || use_go
}

# have PACKAGE says whether it is installed; where there is no dpkg, whether what it brings is there.
have() {
	if command -v dpkg-query >/dev/null; then
		case $(dpkg-query -W -f '${db:Status-Status} ' "$1" 2>/dev/null) in installed*) return ;; esac
		return 1
	fi
	case $1 in
	g++) command -v g++ ;;
	libdnnl-dev) echo '#include <oneapi/dnnl/dnnl.hpp>' | g++ -E -x c++ - ;;
	protobuf-compiler) command -v protoc ;;
	libprotobuf-dev) test -e /usr/include/google/protobuf/timestamp.proto ;;
	clang-19) command -v clang++-19 ;;
	libturbojpeg0-dev) echo '#include <turbojpeg.h>' | g++ -E -x c++ - ;;
	chromium) command -v chromium ;;
	mate-backgrounds) test -d /usr/share/backgrounds/mate ;;
	dataset-*) test -d "/usr/share/datasets/${1#dataset-}" ;;
	esac >/dev/null 2>&1
}

# os KEY prints a value of /etc/os-release.
os() { (. /etc/os-release && eval "printf '%s' \"\${$1:-}\"") 2>/dev/null || true; }

# debian_go prints the package that brings a Go that is new enough. bookworm's own is older than toolchain switching;
# its backports have a newer one.
debian_go() {
	if [ "$(os VERSION_CODENAME)" = bookworm ]; then echo golang-1.23-go; else echo golang-go; fi
}

# add_backports PACKAGE... prints a command that adds bookworm-backports to apt's sources if a package comes from there
# and apt does not know it yet. They come from where bookworm itself does.
add_backports() {
	local uri
	case " $* " in *" golang-1.23-go "*) ;; *) return ;; esac
	[ -z "$(apt-cache madison golang-1.23-go 2>/dev/null)" ] || return 0
	# shellcheck disable=SC2016 # apt expands these
	uri=$(apt-get indextargets --format '$(RELEASE) $(REPO_URI)' | awk '$1 == "bookworm" && !uri { print uri = $2 }')
	[ -n "$uri" ] || die "apt's sources do not name bookworm; add bookworm-backports to them, for Go, and run this again"
	echo "echo 'deb $uri bookworm-backports main' >/etc/apt/sources.list.d/colonnade-backports.list; "
}

# install_packages PACKAGE... installs them by one command, which is also what somebody without rights is told.
install_packages() {
	local command system sudo=() log=$root/.data/apt.log waited="" repaired=""
	if [ "$(os ID)" != debian ] || [ "$(os VERSION_ID | grep -E '^[0-9]+$' || echo 13)" -lt 12 ]; then
		system=$(os PRETTY_NAME)
		die "missing: $*; this installs them on Debian 12 and 13, not on ${system:-an unknown system};" \
			"install what corresponds to them, with Go on PATH, and run this again"
	fi
	command=$(add_backports "$@") || exit 1
	command+="apt-get update; apt-get install -y --no-install-recommends $*"
	if [ "$(id -u)" -ne 0 ]; then
		command -v sudo >/dev/null || die "missing: $*; run as root: $command"
		sudo=(sudo)
	fi
	mkdir -p "${log%/*}"
	say "installing $* (log: $log)"
	until "${sudo[@]}" env LC_ALL=C DEBIAN_FRONTEND=noninteractive sh -c "$command" >"$log" 2>&1; do
		if grep -q 'Could not get lock' "$log"; then # also what a run that was killed may have left behind
			[ -n "$waited" ] || say "waiting for another apt-get to finish"
			waited=1
			sleep 2
		elif [ -z "$repaired" ] && grep -q -e 'dpkg --configure -a' -e 'fix-broken' "$log"; then
			say "finishing an installation that was interrupted"
			repaired=1
			"${sudo[@]}" env DEBIAN_FRONTEND=noninteractive \
				sh -c 'dpkg --configure -a; apt-get install -y --fix-broken' >>"$log" 2>&1 || true
		else
			die "could not install $*: $(grep -m 1 '^E: ' "$log" || tail -n 1 "$log"); run as root to see more: $command"
		fi
	done
}

# go_minor GO prints the minor version of a go program itself, not of the toolchain that it would switch to.
go_minor() { GOTOOLCHAIN=local "$1" version 2>/dev/null | sed -n 's/^go version .*go1\.\([0-9]*\).*/\1/p'; }

# go_wanted prints the minor version of the Go that go.mod asks for.
go_wanted() { sed -n 's/^go 1\.\([0-9]*\).*/\1/p' "$root/go.mod"; }

# find_go puts a usable go on PATH: the user's own if it is new enough, else the newest there is.
find_go() {
	local g minor best=0 dir="" wanted
	wanted=$(go_wanted)
	for g in "$(command -v go || true)" /usr/local/go/bin/go /usr/lib/go-1.*/bin/go; do
		[ -x "$g" ] || continue
		minor=$(go_minor "$g")
		if [ "${minor:-0}" -gt "$best" ]; then
			best=$minor dir=${g%/*}
			[ "$best" -lt "$wanted" ] || break
		fi
	done
	[ "$best" -ge "$go_least" ] || return 1
	[ "$(command -v go || true)" = "$dir/go" ] || PATH=$dir:$PATH
}

# use_go settles which Go builds, and fetches it if it is none of this machine's.
use_go() {
	find_go || die "Go 1.$go_least or later is installed but not found; put it on PATH and run this again"
	# By its exact name: go would fetch yet another to install tools with, and some systems keep it from fetching any.
	if [ "$(go_minor go)" -lt "$(go_wanted)" ]; then
		GOTOOLCHAIN=$(sed -n 's/^toolchain //p' "$root/go.mod")
		export GOTOOLCHAIN
	fi
	(cd "$root" && go version >/dev/null) ||
		die "Go 1.$(go_minor go) could not fetch the toolchain that go.mod asks for (see above);" \
			"check the network and GOPROXY, or put Go 1.$(go_wanted) or later on PATH"
	# A clone owned by another user, as in a container, has no version control stamp to offer.
	if ! git -C "$root" rev-parse >/dev/null 2>&1; then
		GOFLAGS="$(go env GOFLAGS) -buildvcs=false"
		export GOFLAGS
	fi
}

# stale DIR INPUT... says whether what was last built into DIR was built from other inputs than these files and this
# compiler; fresh DIR INPUT... notes that it is built from them. An edit that is undone, or a clone, costs nothing.
stale() { [ "$(cat "$1/built-from" 2>/dev/null)" != "$(built_from "${@:2}")" ]; }
fresh() { built_from "${@:2}" >"$1/built-from"; }
built_from() { (cd "$root" && g++ --version | head -n 1 && cksum "$@"); }

# use_cuda makes go build with the CUDA device in it: one program, which needs no driver to be built or to start
# (scripts/DESIGN.md says why). It wants go and g++ to be there: call it after need.
use_cuda() {
	local shim=$root/.tools/cuda inputs
	inputs=("$root"/cudakern/cuda/include/*.h "$root"/cudakern/cuda/shim/*)
	inputs=("${inputs[@]#"$root"/}")
	if [ ! -e "$shim/libcuda.a" ] || stale "$shim" "${inputs[@]}"; then
		"$root/cudakern/cuda/shim/build.sh" "$shim" || die "could not build the CUDA driver shim; see above"
		fresh "$shim" "${inputs[@]}"
	fi
	# These come before gorgonia.org/cu's own flags, so that an installed toolkit is not used: version 13 does not build.
	export CGO_CFLAGS="-O2 -g -I$root/cudakern/cuda/include -Wno-deprecated-declarations"
	export CGO_LDFLAGS="-O2 -g -L$shim"
	case " ${GOFLAGS-} " in *" -tags=cuda "*) ;; *) GOFLAGS="$(go env GOFLAGS) -tags=cuda" ;; esac
	export GOFLAGS
}

# build_emulator builds the emulated driver (cudakern/cudaemu) into .tools/cudaemu, for tests: a program finds it there
# with LD_LIBRARY_PATH.
build_emulator() {
	local emulator=$root/.tools/cudaemu inputs
	inputs=("$root"/cudakern/cuda/include/*.h "$root"/cudakern/cudaemu/*.{cc,h,sh})
	inputs=("${inputs[@]#"$root"/}")
	[ ! -e "$emulator/libcuda.so.1" ] || stale "$emulator" "${inputs[@]}" || return 0
	say "building the emulated CUDA driver (about a minute)"
	mkdir -p "$emulator"
	"$root/cudakern/cudaemu/build.sh" "$emulator" || die "could not build the emulated CUDA driver; see above"
	fresh "$emulator" "${inputs[@]}"
}

# build makes both programs in bin/, with the CUDA device.
build() {
	use_cuda
	say "building bin/coordinator and bin/worker (minutes the first time, seconds after)"
	(cd "$root" && go build -o bin/ ${COLONNADE_VERSION:+-ldflags "-X colonnade/checkpoint/cli.given=$COLONNADE_VERSION"} \
		./coordinator ./worker) || die "the build failed; see above"
}

# fashion_pack SPLIT FILE packs Fashion-MNIST's images for training or testing, train or test, unless the file is there.
fashion_pack() {
	[ -e "$2" ] || "${programs:-$root/bin}/worker" data pack --split "$1" --out "$2" >&2 \
		--from /usr/share/datasets/fashion-mnist \
		--classes t-shirt,trouser,pullover,dress,coat,sandal,shirt,sneaker,bag,boot
}

# torch_ready [DIR] says whether a virtual environment has what use_torch wants; without DIR, the one that it makes.
torch_ready() {
	python=${1:-$root/.data/models-venv}/bin/python
	[ -x "$python" ] && "$python" -c "import numpy, onnx, onnxruntime, safetensors, torch" 2>/dev/null
}

# use_torch [DIR] makes $python one that has PyTorch, numpy, safetensors, ONNX and its runtime: that of DIR, or of a new
# virtual environment below .data.
use_torch() {
	local venv=${1:-$root/.data/models-venv}
	torch_ready "$1" && return
	[ -z "$1" ] || die "$1 has not all of torch, numpy, safetensors, onnx, onnxruntime; leave out --venv to have one made"
	have python3-venv || install_packages python3-venv
	python3 -m venv --clear "$venv"
	"$venv/bin/pip" install -q torch onnx onnxruntime safetensors numpy
}
