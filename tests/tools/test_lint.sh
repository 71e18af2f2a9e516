#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Plants one fault at a time in a small tree and expects lint.py to refuse it.
# Prints `test NAME ok|FAILED` lines; exits 1 when one failed.
set -eu
cd "$(dirname "$0")/../.."
top=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0

# A clean tree of three folders; $work/tree is made anew for each fault.
tree_make() {
	rm -rf "$work/tree"
	mkdir -p "$work/tree/base" "$work/tree/hypervisor" "$work/tree/tests/unit/base"
	cd "$work/tree"
	git init -q .
	cp "$top/Makefile" "$top/.clang-format" "$top/.clang-tidy" .
	spdx='// SPDX-License-Identifier: Apache-2.0'
	printf '%s\nint base_answer(void);\n' "$spdx" >base/base.h
	printf '%s\nint base_secret(void);\n' "$spdx" >base/secret.h
	printf '%s\n#include "base/base.h"\n\nint base_answer(void)\n{\n\treturn 42;\n}\n' \
		"$spdx" >base/answer.c
	printf '%s\nint hypervisor_answer(void);\n' "$spdx" >hypervisor/hypervisor.h
	printf '%s\n#include "base/base.h"\n' "$spdx" >hypervisor/engine.c
	printf '%s\n#include "base/secret.h"\n' "$spdx" >tests/unit/base/test_secret.c
}

# verdict NAME CHECK ok|FAILED [TEXT]: what lint.py says, and that it says TEXT
verdict() {
	git add -A
	out=$("$top/tests/lint/lint.py" "$2" 2>&1) || true
	result=ok
	case $out in
	*"test lint-$2 $3"*) ;;
	*) result=FAILED ;;
	esac
	case $out in
	*"${4:-}"*) ;;
	*) result=FAILED ;;
	esac
	echo "test lint-$1 $result"
	if [ "$result" = FAILED ]; then
		echo "$out"
		failed=1
	fi
}

include_fault() { # NAME FILE TARGET TEXT
	tree_make
	echo "#include \"$3\"" >>"$2"
	verdict "$1" include FAILED "$2:3: \"$3\" $4"
}

for check in include spdx size unfinished format shell python tidy cppcheck; do
	tree_make
	verdict "passes-a-clean-tree-$check" "$check" ok
done
include_fault refuses-an-upward-include base/base.h hypervisor/hypervisor.h "reaches up"
include_fault refuses-an-include-sideways hypervisor/hypervisor.h channel/channel.h "reaches up"
include_fault refuses-a-private-header hypervisor/hypervisor.h base/secret.h "is private"
include_fault refuses-a-bare-include base/base.h secret.h "is not a path"
include_fault refuses-an-unknown-folder base/base.h agent2/agent2.h "is in no folder"
include_fault refuses-tests-in-the-product base/base.h tests/unit/base/x.h "is in no folder"
include_fault refuses-an-upward-include-of-a-test tests/unit/base/test_secret.c \
	hypervisor/hypervisor.h "reaches up"

tree_make
sed -i 1d base/base.h
verdict refuses-a-missing-licence-line spdx FAILED "base/base.h:1"

tree_make
yes '' | head -n 900 >>base/base.h
verdict refuses-a-long-file size FAILED "base/base.h:1: 902 lines"

tree_make
{
	echo 'void base_long(void)'
	echo '{'
	yes '	base_answer();' | head -n 100
	echo '}'
} >>base/answer.c
verdict refuses-a-long-function size FAILED "base_long() has 103 lines"

tree_make
echo '/* TO''DO: the rest */' >>base/answer.c
verdict refuses-unfinished-work unfinished FAILED "base/answer.c:8"

tree_make
echo 'int   base_spaced( void ) ;' >>base/base.h
verdict refuses-odd-format format FAILED "base/base.h:3"

tree_make
# The fault itself, not ours to expand.
# shellcheck disable=SC2016
printf '#!/bin/sh\nrm $1\n' >run
verdict refuses-an-unquoted-word shell FAILED "SC2086"

tree_make
printf '#!/usr/bin/env python3\ndef f(:\n' >tool
verdict refuses-broken-python python FAILED "tool:2"
printf '#!/usr/bin/env python3\ndef f():\n    return g()\n' >tool
verdict refuses-unknown-names python FAILED "undefined name 'g'"

tree_make
printf 'unsigned long base_size(int *p)\n{\n\treturn sizeof(sizeof(*p));\n}\n' >>base/answer.c
verdict refuses-sizeof-of-sizeof tidy FAILED "bugprone-sizeof-expression"

tree_make
printf 'int base_past(void)\n{\n\tint a[2] = {0, 1};\n\n\treturn a[2];\n}\n' >>base/answer.c
verdict refuses-an-index-out-of-bounds cppcheck FAILED "arrayIndexOutOfBounds"

exit $failed
