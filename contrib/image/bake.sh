#!/bin/sh
# Puts Godwit into the root file system of a node image, before any node runs from it:
#
#   bake.sh ROOT BIN [--systemd]
#
# ROOT is the image's root file system, mounted (or / inside of a machine that becomes an image, as Packer has it), with
# containerd 2.0 or later in it. BIN is the directory with Godwit's programs (bin of `make build`). With --systemd the node
# daemon's unit is put there and enabled, for clusters without the DaemonSet; /etc/godwit/node.toml and the certificate are each
# node's own and come later. May be repeated: what is there already stays. `godwit-node uninstall --owner image` undoes it.
set -eu
[ $# -ge 2 ] || { sed -n '2,4p' "$0" >&2; exit 2; }
root=${1%/} bin=$2 systemd=${3:-}
here=$(cd "$(dirname "$0")" && pwd)

programs="containerd-shim-godwit-v2 godwit-node godwitctl"
[ ! -e "$bin/kubectl-godwit" ] || programs="$programs kubectl-godwit"
mkdir -p "$root/tmp"
stage=$(mktemp -d "$root/tmp/godwit-XXXXXX")
trap 'rm -rf "$stage"' EXIT
for p in $programs; do cp "$bin/$p" "$stage/"; done

inside=${stage#"$root"}
set -- "$inside/godwit-node" install --offline --owner image --source "$inside"
if [ -n "$root" ]; then chroot "$root" "$@"; else "$@"; fi

[ "$systemd" = --systemd ] || exit 0
units=$root/etc/systemd/system
mkdir -p "$units/multi-user.target.wants" "$root/etc/godwit"
cp "$here/../systemd/godwit-node.service" "$units/"
ln -sf ../godwit-node.service "$units/multi-user.target.wants/godwit-node.service"
[ -e "$root/etc/godwit/node.toml" ] || cp "$here/../systemd/node.toml" "$root/etc/godwit/node.toml"
