#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# run_tests.py counts right and calls nothing a success that is not.
# Prints `test NAME ok|FAILED` lines; exits 1 when one failed.
set -eu
cd "$(dirname "$0")/../.."
top=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0

limit=30
# expect NAME CODE TOTALS [TEXT]: run the script on standard input under run_tests.py
expect() {
	{
		echo '#!/bin/sh'
		cat
	} >"$work/$1"
	chmod +x "$work/$1"
	code=0
	out=$("$top/tests/run_tests.py" --timeout "$limit" "$work/$1" 2>&1) || code=$?
	result=ok
	[ "$code" -eq "$2" ] || result=FAILED
	[ "$(printf '%s\n' "$out" | tail -n 1)" = "$3" ] || result=FAILED
	case $out in
	*"${4:-}"*) ;;
	*) result=FAILED ;;
	esac
	echo "test run-tests-$1 $result"
	if [ "$result" = FAILED ]; then
		echo "expected exit $2, '$3', '${4:-}'; got exit $code and:"
		printf '%s\n' "$out" | sed 's/^/	/'
		failed=1
	fi
}

expect counts-tap 1 "1 passed, 1 failed, 1 skipped" "test_c (no kvm here)" <<'END'
echo 1..3
echo "ok 1 - test_a"
echo "not ok 2 - test_b"
echo "no kvm here"
echo "not ok 3 # SKIP test_c"
exit 1
END
expect counts-a-result-behind-other-text 0 "1 passed, 0 failed, 0 skipped" <<'END'
echo 1..1
printf 'without a newline ok 1 - test_a\n'
END
expect refuses-an-early-end 1 "1 passed, 1 failed, 0 skipped" "1 of 2 tests were run" <<'END'
echo 1..2
echo "ok 1 - test_a"
END
expect refuses-a-bad-exit-after-good-results 1 "1 passed, 1 failed, 0 skipped" "exit code 7" <<'END'
echo 1..1
echo "ok 1 - test_a"
exit 7
END
expect refuses-a-crash 1 "1 passed, 1 failed, 0 skipped" "ended by SIGSEGV" <<'END'
echo 1..1
echo "ok 1 - test_a"
kill -SEGV $$
END
limit=3
expect refuses-to-wait-for-ever 1 "0 passed, 1 failed, 0 skipped" "not done after 3 s" <<'END'
sleep 60 & wait
END
limit=30
expect refuses-what-leaves-processes 1 "1 passed, 1 failed, 0 skipped" "left a process behind" <<'END'
echo 1..1
echo "ok 1 - test_a"
setsid sleep 60 &
END
expect counts-our-lines 1 "2 passed, 1 failed, 1 skipped" "no lab here" <<'END'
echo "scenario kill-primary ok 12 ms"
echo "scenario cut-link FAILED"
echo "scenario fence skipped (no lab here)"
echo "sim seeds ok"
END
expect takes-the-exit-code-alone 0 "1 passed, 0 failed, 0 skipped" <<'END'
echo hello
END
expect takes-the-bad-exit-code-alone 1 "0 passed, 1 failed, 0 skipped" <<'END'
exit 1
END
exit $failed
