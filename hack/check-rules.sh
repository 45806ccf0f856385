#!/usr/bin/env bash
# Has Prometheus's own tool check the alert rules and the dashboard's expressions, and try when the alerts fire. It is
# taken from Debian's package without installing that, which would start a server.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v promtool >/dev/null; then
	tools=$(mktemp -d)
	trap 'rm -rf "$tools"' EXIT
	apt-get update -qq
	(cd "$tools" && apt-get -o APT::Sandbox::User=root download -qq prometheus && dpkg -x prometheus_*.deb .)
	PATH="$tools/usr/bin:$PATH"
fi
go test -count=1 -run 'Dashboard|Alerts' -v ./nodecontroller/metrics
