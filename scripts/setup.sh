# Set-up shared by the scripts of this directory; sourced, not run. Everything is safe to do twice and quick the second
# time. Debian 12 and 13.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say() { printf '%s\n' "$*" >&2; }
die() {
	say "${0##*/}: $*"
	exit 1
}

# apt_install WHY PACKAGE... installs what is missing: as root, else through sudo, else it prints the command.
apt_install() {
	local why=$1 missing=() p sudo=()
	shift
	for p in "$@"; do
		[ "$(dpkg-query -W -f '${db:Status-Status}' "${p%%/*}" 2>/dev/null)" = installed ] || missing+=("$p")
	done
	[ ${#missing[@]} -eq 0 ] && return
	command -v apt-get >/dev/null || die "${missing[*]} missing ($why), and this is no Debian; install them by hand"
	if [ "$(id -u)" -ne 0 ]; then
		command -v sudo >/dev/null || die "${missing[*]} missing ($why); as root: apt-get install ${missing[*]}"
		sudo=(sudo)
	fi
	say "installing ${missing[*]} ($why)"
	apt_update "${sudo[@]}"
	"${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" \
		>"$(apt_log)" 2>&1 || die "apt-get install ${missing[*]} failed; see $(apt_log)"
}

apt_log() { printf '%s' "${TMPDIR:-/tmp}/colonnade-apt.$(id -u).log"; }

apt_update() {
	[ -n "${apt_updated:-}" ] && return
	"$@" apt-get update -qq >"$(apt_log)" 2>&1 || say "apt-get update had errors; see $(apt_log)"
	apt_updated=1
}

# The oldest Go that can fetch the toolchain go.mod asks for.
go_least=21

# go_minor prints the minor version of a go program.
go_minor() { "$1" version 2>/dev/null | sed -n 's/^go version go1\.\([0-9]*\).*/\1/p'; }

# find_go puts a usable go on PATH: the user's own, or Debian's.
find_go() {
	local g
	for g in "$(command -v go || true)" /usr/lib/go-1.*/bin/go /usr/local/go/bin/go; do
		if [ -x "$g" ] && [ "$(go_minor "$g")" -ge "$go_least" ] 2>/dev/null; then
			PATH=$(dirname "$g"):$PATH
			return
		fi
	done
	return 1
}

# bookworm's own Go is older than toolchain switching; its backports have one. They come from where bookworm itself
# does.
install_backports_go() {
	local sudo=() uri list=/etc/apt/sources.list.d/colonnade-backports.list
	[ "$(id -u)" -eq 0 ] || sudo=(sudo)
	apt_update "${sudo[@]}"
	if ! apt-cache policy | grep -q bookworm-backports; then
		uri=$(apt-get indextargets --format '$(RELEASE) $(REPO_URI)' | sed -n 's/^bookworm //p' | head -n 1)
		[ -n "$uri" ] || die "cannot tell where bookworm comes from; add bookworm-backports to apt's sources and run again"
		if [ "$(id -u)" -ne 0 ] && ! command -v sudo >/dev/null; then
			die "Go is missing; as root: echo 'deb $uri bookworm-backports main' >$list; then run again"
		fi
		say "adding bookworm-backports to apt's sources in $list (for Go)"
		echo "deb $uri bookworm-backports main" | "${sudo[@]}" tee "$list" >/dev/null
		apt_updated=
	fi
	apt_install "Go, to build with" golang-1.23-go
}

# need_go makes go usable in the version that go.mod names.
need_go() {
	if ! find_go; then
		if grep -q '^VERSION_CODENAME=bookworm' /etc/os-release; then
			install_backports_go
		else
			apt_install "Go, to build with" golang-go
		fi
		find_go || die "no Go of version 1.$go_least or later found after installing it; put one on PATH"
	fi
	apt_install "certificates, to fetch Go modules" ca-certificates
	# Debian's Go does not fetch newer toolchains unless told to.
	if [ "$(go_minor go)" -lt "$(sed -n 's/^go 1\.\([0-9]*\).*/\1/p' "$root/go.mod")" ]; then
		export GOTOOLCHAIN=auto
	fi
	# A clone owned by another user, as in a container, has no version control stamp to offer.
	git -C "$root" rev-parse >/dev/null 2>&1 || export GOFLAGS="${GOFLAGS:-} -buildvcs=false"
}

# need_engine installs what the CPU engine is built from.
need_engine() {
	apt_install "C++ compiler and C library headers, for the CPU engine" g++ libc6-dev
	apt_install "oneDNN, the CPU engine's kernels" libdnnl-dev
}

# build makes both programs in bin/.
build() {
	say "building bin/coordinator and bin/worker"
	(cd "$root" && go build -o bin/ ./coordinator ./worker) || die "the build failed; see above"
}
