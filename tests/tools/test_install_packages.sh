#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# install-packages.sh against stand-ins for dpkg-query, apt-cache, apt-get, id and sudo.
# Prints `test NAME ok|FAILED` lines; exits 1 when one failed.
set -eu
cd "$(dirname "$0")/../.."
top=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0
PATH=$work/bin:$PATH
export PATH work

stand_in() { # NAME, its body on standard input
	{
		echo '#!/bin/sh'
		cat
	} >"$work/bin/$1"
	chmod +x "$work/bin/$1"
}

# Installed: aaa.  bbb can be installed once the lists are there ($work/lists).
machine_make() {
	rm -rf "${work:?}/bin" "$work/lists" "$work/calls"
	mkdir "$work/bin"
	: >"$work/calls"
	printf '# a comment\naaa # why\n\nbbb   # another\n' >"$work/list"
	stand_in dpkg-query <<'END'
printf 'installed aaa\nconfig-files bbb\nnot-installed ccc\n'
END
	stand_in apt-cache <<'END'
[ -e "$work/lists" ]
END
	stand_in apt-get <<'END'
echo "apt-get $*" >>"$work/calls"
case "$*" in
*update*) : >"$work/lists" ;;
*) [ -e "$work/lists" ] ;;
esac
END
	stand_in id <<'END'
echo "${USER_ID:-0}"
END
	stand_in sudo <<'END'
echo "sudo" >>"$work/calls"
exec "$@"
END
}

# expect NAME CODE CALLS: what it called, in order, without options
expect() {
	code=0
	"$top/packaging/install-packages.sh" "$work/list" >"$work/out" 2>&1 || code=$?
	calls=$(sed 's/apt-get -q -o [^ ]* /apt-get /' "$work/calls" | tr '\n' ';')
	if [ "$code" -eq "$2" ] && [ "$calls" = "$3" ]; then
		echo "test install-packages-$1 ok"
	else
		echo "test install-packages-$1 FAILED"
		echo "exit $code, calls: $calls"
		cat "$work/out"
		failed=1
	fi
}

install='apt-get install -y --no-install-recommends bbb;'

machine_make
echo aaa >"$work/list"
expect does-nothing-when-nothing-is-missing 0 ""
machine_make
: >"$work/lists"
expect installs-what-is-missing 0 "$install"
machine_make
expect fetches-lists-only-when-needed 0 "apt-get update;$install"
machine_make
: >"$work/lists"
USER_ID=1000
export USER_ID
expect asks-sudo-for-a-user 0 "sudo;$install"
unset USER_ID
machine_make
stand_in apt-get <<'END'
exit 100
END
expect fails-when-apt-fails 100 ""
exit $failed
