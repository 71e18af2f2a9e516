#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# What `make bench-migrate` times still copies a guest's memory, which it compares itself, and with no
# TLS where it says so. Prints `test NAME ok|FAILED` lines; exits 1 when one failed.
set -eu
cd "$(dirname "$0")/../.."
build=${POLLUX_BUILD:-build}
failed=0

# PROGRAM --path PATH [OPTION...]
copies() {
	name=$1
	shift
	if out=$(timeout 120 "$build/bench/$name" --mib 16 --guest "$build/bench/guest/migrant" "$@" 2>&1); then
		echo "test $name-$2 ok"
	else
		echo "test $name-$2 FAILED"
		echo "$out"
		failed=1
	fi
}

copies bench-copy --path session --streams 2
copies bench-copy --path raw
copies bench-copy-plain --path session --streams 2
exit "$failed"
