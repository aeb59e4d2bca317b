# shellcheck shell=bash
# What the scripts that drive a mounted session have in common. Sourced, never run.
#
# Environment:
#   SESSIONFS    the binary to test (default: built here with cargo build --release)
#   PLAIN_DIR    a directory to use instead of a mount: the baseline; nothing is mounted or checked
#   ACCEPT_TMP   where work directories go (default /var/tmp); must be on a real disk
#   ACCEPT_SMALL 1: small amounts, for a quick look

SCRIPTS=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
HELPERS=$SCRIPTS/acceptance.d
MANIFEST=$SCRIPTS/manifest
PLAIN_DIR=${PLAIN_DIR:-}
ACCEPT_SMALL=${ACCEPT_SMALL:-}
KEEP=${KEEP:-}
export SCRIPTS HELPERS MANIFEST PLAIN_DIR ACCEPT_SMALL

say() { printf '%s\n' "$*"; }

die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# need COMMAND=PACKAGE...: every command is there, or one message names all that is missing.
need() {
    local pair missing=()
    for pair in "$@"; do
        command -v "${pair%%=*}" >/dev/null || missing+=("${pair%%=*} (package ${pair#*=})")
    done
    ((${#missing[@]} == 0)) || die "missing: $(printf '%s; ' "${missing[@]}")install them first"
}

# seconds_since EPOCHREALTIME: with one decimal.
seconds_since() {
    local micros=$((${EPOCHREALTIME/./} - ${1/./}))
    printf '%d.%d' $((micros / 1000000)) $((micros / 100000 % 10))
}

# Sets SESSIONFS to an absolute path; builds it unless it was given.
find_binary() {
    [[ -z $PLAIN_DIR ]] || return 0
    if [[ -z ${SESSIONFS:-} ]]; then
        local root
        root=$(dirname "$SCRIPTS")
        cargo build --release --manifest-path "$root/Cargo.toml"
        SESSIONFS=${CARGO_TARGET_DIR:-$root/target}/release/sessionfs
    fi
    SESSIONFS=$(realpath "$SESSIONFS")
    [[ -x $SESSIONFS ]] || die "SESSIONFS=$SESSIONFS is not a program"
    [[ -e /dev/fuse ]] || die "no /dev/fuse here"
    export SESSIONFS
}

# make_work [STORE]: WORK, MNT and STORE, on a disk; removed on exit unless KEEP is set.
make_work() {
    local kind
    WORK=$(mktemp -d "${ACCEPT_TMP:-/var/tmp}/sessionfs-${0##*/}.XXXXXX")
    trap cleanup EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    kind=$(stat -f -c %T "${PLAIN_DIR:-$WORK}")
    case $kind in
    tmpfs | ramfs | fuse*) die "$WORK is on $kind: set ACCEPT_TMP to a directory on a real disk" ;;
    esac
    STORE=${1:-$WORK/store}
    MNT=$WORK/mnt
    if [[ -n $PLAIN_DIR ]]; then
        MNT=$(mktemp -d "$(realpath "$PLAIN_DIR")/${0##*/}.XXXXXX")/mnt
        say "PLAIN_DIR: working in a plain directory; mount, umount and check are skipped"
    fi
    mkdir -p "$MNT" "$STORE" "$WORK/log"
    STORE=$(realpath "$STORE")
    export WORK MNT STORE
}

sfs() { "$SESSIONFS" --store "$STORE" "$@"; }

# mount_session SESSION [OPTION...]
mount_session() {
    local session=$1
    shift
    [[ -z $PLAIN_DIR ]] || return 0
    sfs mount "$@" "$session" "$MNT"
    mountpoint -q "$MNT" || die "mount $session returned 0 but nothing is mounted"
    printf '%s\n' "$session" >"$WORK/mounted"
}

umount_session() {
    [[ -z $PLAIN_DIR ]] || return 0
    sfs umount "$1"
    ! mountpoint -q "$MNT" || die "umount $1 returned 0 but it is still mounted"
    rm -f "$WORK/mounted"
}

check_session() {
    [[ -z $PLAIN_DIR ]] || return 0
    sfs check "$1"
}

# new_session SESSION [OPTION...]: mounted and empty; a plain directory is emptied.
new_session() {
    mount_session "$@"
    if [[ -n $PLAIN_DIR ]]; then
        rm -rf "$MNT"
        mkdir "$MNT"
    fi
}

# status_field SESSION FIELD
status_field() {
    sfs status "$1" --json | python3 -c '
import json, sys
print(json.load(sys.stdin)[sys.argv[1]])' "$2"
}

# The bytes of a stopped session's database.
database_bytes() { stat -c %s "$STORE/$1/session.db"; }

drop_caches() {
    [[ -w /proc/sys/vm/drop_caches ]] || die "dropping the caches needs root"
    sync
    echo 3 >/proc/sys/vm/drop_caches
}

# The bytes of all that a stopped session's directory holds.
session_bytes() { find "$STORE/$1" -type f -printf '%s\n' | awk '{ n += $1 } END { printf "%d", n }'; }

cleanup() {
    local status=$?
    trap '' INT TERM
    if [[ -n ${STEP_PID:-} ]]; then
        kill "$STEP_PID" 2>/dev/null || true
        wait "$STEP_PID" 2>/dev/null || true
    fi
    cd /
    if mountpoint -q "$MNT"; then
        timeout 120 "$SESSIONFS" --store "$STORE" umount "$(<"$WORK/mounted")" ||
            fusermount3 -u -z "$MNT" || umount -l "$MNT" || true
    fi
    if [[ -n $KEEP ]] || mountpoint -q "$MNT"; then
        say "kept: $WORK${PLAIN_DIR:+ and $(dirname "$MNT")}"
    else
        rm -rf --one-file-system "$WORK"
        [[ -z $PLAIN_DIR ]] || rm -rf --one-file-system "$(dirname "$MNT")"
    fi
    exit "$status"
}
