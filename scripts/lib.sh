# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
# Sourced by the build scripts.  Progress and errors go to stderr; stdout is
# for results only.

# The tree that the calling script is in.
top=$(cd "$(dirname "$0")" && until [ -f scripts/lib.sh ]; do cd ..; done && pwd)

# die MESSAGE...: one line that says what is wrong and what to do.
die() {
	printf 'error: %s\n' "$*" >&2
	exit 1
}

# step MESSAGE...: one line of progress.
step() {
	printf '==> %s\n' "$*" >&2
}

# cache_dir: where build products live, outside the tree.
cache_dir() {
	printf '%s\n' "${GUEST_LBR_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/guest_lbr}"
}

# Tools that scripts/setup built for us come first.
PATH=$(cache_dir)/tools/bin:$PATH
export PATH

# run_logged LOG MESSAGE CMD...: a quiet build step whose output is kept; on
# failure its last lines are shown and the log is named.
run_logged() {
	log=$1
	what=$2
	shift 2
	mkdir -p "$(dirname "$log")"
	if ! "$@" >"$log" 2>&1 </dev/null; then
		tail -n 25 "$log" >&2
		die "$what failed; the whole log is $log"
	fi
}

# lock DIR: nobody else works in DIR until the script ends.
lock() {
	mkdir -p "$(dirname "$1")"
	exec 9>"$1.lock"
	flock -n 9 || {
		step "waiting for another that works in $1"
		flock 9
	}
}

# publish LINK TARGET: make build/LINK point to a cached product.
publish() {
	mkdir -p "$top/build/$(dirname "$1")"
	ln -sfn "$2" "$top/build/$1"
}

# need CMD...: every command must exist.
need() {
	for cmd; do
		command -v "$cmd" >/dev/null 2>&1 ||
			die "$cmd is missing; run 'make setup' (needs root or sudo)"
	done
}

# tool NAME VERSION CRATE [FLAG...]: install a cargo tool of a fixed
# version unless the cache has it.
tool() {
	name=$1 version=$2 crate=$3
	shift 3
	bin=$(cache_dir)/tools/$crate-$version/bin/$name
	if [ ! -x "$bin" ]; then
		step "building $crate $version"
		run_logged "$(cache_dir)/log/$crate.log" "building $crate" \
			cargo install --locked --quiet --version "$version" \
			--root "$(cache_dir)/tools/$crate-$version" "$@" "$crate"
	fi
	mkdir -p "$(cache_dir)/tools/bin"
	ln -sfn "$bin" "$(cache_dir)/tools/bin/$name"
}

# cargo_mutants: install the one whose changes are counted and explained.
cargo_mutants() {
	tool cargo-mutants 27.1.0 cargo-mutants
}

# use_ccache TREE: compilers from then on go through ccache, for a copy of TREE alike.
use_ccache() {
	export CCACHE_DIR="$(cache_dir)/ccache" CCACHE_BASEDIR="$1"
	export CCACHE_MAXSIZE="${CCACHE_MAXSIZE:-3G}"
	export PATH="/usr/lib/ccache:$PATH"
}

# debian_mirror: the one that this system takes Debian from.
debian_mirror() {
	apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' |
		grep '/debian/*$' | head -n 1
}
