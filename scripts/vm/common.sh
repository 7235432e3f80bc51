# shellcheck shell=bash
# What the scripts of this directory share: stopping clearly, and things that are made once and kept.
#
# What is made lies under PICOSEG_CACHE (default /var/cache/picoseg), named after what made it: a change of the scripts
# makes a new one.

die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

cache=${PICOSEG_CACHE:-/var/cache/picoseg}

# digest FILE...: twelve hexadecimal digits of their content.
digest() {
    cat "$@" | sha256sum | cut -c1-12
}

# debian SUITE DIRECTORY PACKAGE,...: a minimal Debian without documentation.
debian() {
    # shellcheck disable=SC2016 # meant for the shell of mmdebstrap
    mmdebstrap --quiet --variant=minbase --include="$3" \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' \
        --customize-hook='rm -rf "$1"/var/cache/apt/* "$1"/var/lib/apt/lists/*' \
        "$1" "$2" >&2 9>&- || die "mmdebstrap could not make $1 with $3: is a Debian mirror within reach?"
}

# once NAME FUNCTION: calls FUNCTION DIRECTORY unless it has made NAME before; sets made. Others who ask meanwhile wait.
once() {
    local scratch
    made=$cache/$1
    [ "$(id -u)" = 0 ] || die "root is needed to make a file system"
    command -v mmdebstrap >/dev/null || die "please install: apt-get install mmdebstrap"
    mkdir -p "$cache"
    exec 9>"$cache/.${1%-*}.lock"
    flock 9
    if [ ! -d "$made" ]; then
        scratch=$(mktemp -d "$cache/.making-$1-XXXXXX")
        # shellcheck disable=SC2064 # the name as it is now
        trap "rm -rf --one-file-system '$scratch'" EXIT
        chmod 755 "$scratch"
        "$2" "$scratch"
        mv "$scratch" "$made"
    fi
    exec 9>&-
}
