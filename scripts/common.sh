# shellcheck shell=bash
# What scripts/demo and scripts/test share: stopping clearly, Debian packages, the invoking user's Rust.
# The caller has made a directory of its own, $scratch.
: "${scratch:?}"

# Prints why it cannot go on, and stops.
die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

have() {
    command -v "$1" >/dev/null 2>&1
}

is_root() {
    [ "$(id -u)" = 0 ]
}

# missing_packages PROGRAM=PACKAGE... lib:PKGCONFIG=PACKAGE...: prints the packages of what is not there.
missing_packages() {
    local want package
    for want in "$@"; do
        package=${want#*=} want=${want%%=*}
        case $want in
        lib:*) have pkg-config && pkg-config --exists "${want#lib:}" || echo "$package" ;;
        *) have "$want" || echo "$package" ;;
        esac
    done | sort -u
}

# install_packages PACKAGE...: by apt-get, or stops and says what to install by hand.
install_packages() {
    [ $# -gt 0 ] || return 0
    have apt-get || die "please install what Debian calls: $* (no apt-get here; Debian 12 and 13 are supported)"
    is_root || die "please install: apt-get install $* (or run this with sudo)"
    echo "Installing $*"
    export DEBIAN_FRONTEND=noninteractive
    apt-get install -y --no-install-recommends "$@" >"$scratch/apt" 2>&1 && return
    # A fresh machine may have no package lists yet, or old ones.
    { apt-get update && apt-get install -y --no-install-recommends "$@"; } >"$scratch/apt" 2>&1 ||
        die "apt-get could not install $*:"$'\n'"$(tail -n 5 "$scratch/apt")"
}

# The user who called sudo owns the sources and has the toolchain: what is built belongs to that user.
builder=$(id -un)
if is_root && [ -n "${SUDO_USER:-}" ] && [ "$SUDO_USER" != root ]; then
    builder=$SUDO_USER
fi
builder_home=$(getent passwd "$builder" | cut -d: -f6)
builder_path=$builder_home/.cargo/bin:$PATH

# Runs a command as that user, with that user's Rust in PATH.
as_builder() {
    if [ "$builder" = "$(id -un)" ]; then
        env PATH="$builder_path" "$@"
    else
        runuser -u "$builder" -- env HOME="$builder_home" PATH="$builder_path" "$@"
    fi
}

# Stops unless cargo is there and new enough for Cargo.toml.
require_rust() {
    local wanted found
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    found=$(as_builder cargo --version 2>/dev/null | cut -d' ' -f2) || true
    [ -n "$found" ] ||
        die "no cargo for user $builder, neither in PATH nor in $builder_home/.cargo/bin; install Rust $wanted or later, see https://rustup.rs"
    [ "$(printf '%s\n' "$wanted" "$found" | sort -V | head -n 1)" = "$wanted" ] ||
        die "cargo $found of user $builder is too old, Rust $wanted or later is needed, see https://rustup.rs"
}

# What the build needs beside Rust.
# shellcheck disable=SC2034 # used by the callers
build_packages=(gcc=gcc make=make pkg-config=pkg-config lib:libnftnl=libnftnl-dev lib:libmnl=libmnl-dev)
