#!/usr/bin/env bash
# Renders the manifests of contrib/kubernetes from the Helm chart: manifests.sh HELM. With --check before it, it renders a
# copy and fails if that differs from what is committed.
set -euo pipefail
cd "$(dirname "$0")/.."
check=
[ "$1" != --check ] || { check=1; shift; }
helm=$1
out=contrib/kubernetes
[ -z "$check" ] || { out=$(mktemp -d); trap 'rm -rf "$out"' EXIT; mkdir "$out/uninstall"; }

render() {
	"$helm" template godwit contrib/helm/godwit --namespace godwit-system --kube-version 1.34.0 "$@"
}
mkdir -p "$out/uninstall"
render --set namespace.create=true --no-hooks >"$out/godwit.yaml"
render --show-only templates/uninstall.yaml >"$out/uninstall/uninstall.yaml"
[ -n "$check" ] || exit 0
for f in godwit.yaml uninstall/uninstall.yaml; do
	diff -u "contrib/kubernetes/$f" "$out/$f" || { echo "contrib/kubernetes/$f is not what the chart says: run make manifests" >&2; exit 1; }
done
