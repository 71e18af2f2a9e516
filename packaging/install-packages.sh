#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Installs what packages.txt lists and the machine lacks; does nothing, quickly,
# when nothing is missing.  Usage: install-packages.sh [LIST]
set -eu

list=${1:-$(dirname "$0")/packages.txt}
wanted=$(sed 's/#.*//' "$list" | tr -s ' \t\n' ' ')

if ! command -v dpkg-query >/dev/null; then
	echo "This is not a Debian system: the packages are not installed for you."
	echo "Needed are the equivalents of what $list names."
	exit 0
fi

# A package that is provided under another name (a virtual one) counts as missing:
# the list names real packages only.
installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' 2>/dev/null | sed -n 's/^installed //p' | tr '\n' ' ')
missing=
for package in $wanted; do
	case " $installed" in
	*" $package "*) ;;
	*) missing="$missing $package" ;;
	esac
done
if [ -z "$missing" ]; then
	exit 0
fi

echo "Missing packages:$missing"
as_root=
if [ "$(id -u)" -ne 0 ]; then
	as_root=sudo
	if ! command -v sudo >/dev/null; then
		echo "Neither root nor sudo is at hand. As root, run:" >&2
		echo "  apt-get install --no-install-recommends$missing" >&2
		exit 1
	fi
fi

apt() {
	echo "+ ${as_root:+$as_root }apt-get $*"
	$as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 "$@"
}

# The names are words of our own list.
# shellcheck disable=SC2086
install_missing() {
	apt install -y --no-install-recommends $missing
}

# shellcheck disable=SC2086
if apt-cache show --no-all-versions $missing >/dev/null 2>&1 && install_missing; then
	exit 0
fi
echo "The package lists are missing or stale: fetching them."
apt update
install_missing
