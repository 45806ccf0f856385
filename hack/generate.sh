#!/usr/bin/env bash
# Generates code from the .proto files, and from the API's types their methods
# and the custom resource definition, which it also puts into the chart and the manifests. With --check it generates into a copy
# and fails if that differs from what is committed.
set -euo pipefail
cd "$(dirname "$0")/.."

command -v protoc >/dev/null || {
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends protobuf-compiler >/dev/null
}

tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
go build -o "$tools/" google.golang.org/protobuf/cmd/protoc-gen-go github.com/containerd/ttrpc/cmd/protoc-gen-go-ttrpc \
	sigs.k8s.io/controller-tools/cmd/controller-gen

out=$PWD
[ "${1:-}" != --check ] || out="$tools/out"
mkdir -p "$out"
mapfile -t protos < <(git ls-files '*.proto')
for proto in "${protos[@]}"; do
	dir=$(dirname "$proto")
	mkdir -p "$out/$dir"
	(cd "$dir" && PATH="$tools:$PATH" protoc \
		--go_out="$out/$dir" --go_opt=paths=source_relative \
		--go-ttrpc_out="$out/$dir" --go-ttrpc_opt=paths=source_relative \
		"$(basename "$proto")")
done
api=nodecontroller/api/v1alpha1
"$tools/controller-gen" object crd "paths=./$api" "output:object:dir=$out/$api" "output:crd:dir=$out/contrib/kubernetes/crd"
# Helm reads nothing outside of its chart.
mkdir -p "$out/contrib/helm/godwit/files"
cp "$out"/contrib/kubernetes/crd/*.yaml "$out/contrib/helm/godwit/files/"
# Helm puts it into the manifests as it is (hack/manifests.sh), so they can have it without waiting for a helm.
manifests=contrib/kubernetes/godwit.yaml
awk -v definition="$out/contrib/kubernetes/crd/godwit.dev_podmigrations.yaml" '
	/^---$/ { within = 0 }
	!within
	/^# Source: .*\/crd\.yaml$/ {
		within = 1
		while ((getline line <definition) > 0)
			if (line != "---")
				print line
	}
' "$manifests" >"$tools/manifests"
cp "$tools/manifests" "$out/$manifests"
[ "${1:-}" = --check ] || exit 0

# Which protoc it was is a comment in the code, and may differ.
status=0
while IFS= read -r generated; do
	file=${generated#"$out/"}
	if ! diff -u -I '^//.*protoc' "$file" "$generated"; then
		echo "$file is not what its source says: run make generate" >&2
		status=1
	fi
done < <(find "$out" -name '*.go' -o -name '*.yaml')
exit $status
