#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# `make install` puts everything where it belongs, `make uninstall` leaves nothing.
# Prints `test NAME ok|FAILED` lines; exits 1 when one failed.
set -eu
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0
unset MAKEFLAGS MFLAGS MAKELEVEL

verdict() { # NAME, then a command that must succeed
	name=$1
	shift
	if "$@" >"$work/out" 2>&1; then
		echo "test install-$name ok"
	else
		echo "test install-$name FAILED"
		echo "$*"
		cat "$work/out"
		failed=1
	fi
}

# verdict calls these by name.
# shellcheck disable=SC2317
run_make() {
	make BUILD="${POLLUX_BUILD:-build}" DESTDIR="$work/root" PREFIX=/opt/pollux "$@"
}

# shellcheck disable=SC2317
nothing_left() {
	[ -z "$(find "$work/root" -type f)" ]
}

verdict installs run_make install
for program in pollux polluxd pollux-vm; do
	verdict "$program" test -x "$work/root/opt/pollux/bin/$program"
done
verdict runs-from-there "$work/root/opt/pollux/bin/pollux" version
verdict unit-names-the-program grep -qx 'ExecStart=/opt/pollux/bin/polluxd.*' \
	"$work/root/opt/pollux/lib/systemd/system/polluxd.service"
verdict examples test -s "$work/root/opt/pollux/share/doc/pollux/examples/polluxd.conf"
verdict completion bash -n "$work/root/opt/pollux/share/bash-completion/completions/pollux"
verdict uninstalls run_make uninstall
verdict leaves-nothing nothing_left
exit $failed
