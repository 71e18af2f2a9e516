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

limit=30 options=
# expect NAME CODE TOTALS [TEXT]: run the script on standard input under run_tests.py
expect() {
	{
		echo '#!/bin/sh'
		cat
	} >"$work/$1"
	chmod +x "$work/$1"
	code=0
	# shellcheck disable=SC2086 # several words
	out=$(TRIES=$work/$1.tries "$top/tests/run_tests.py" $options --timeout "$limit" "$work/$1" \
		2>&1) || code=$?
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

# What fails once: the first line of each script counts its runs.
options="--again 2"
expect tries-again-what-failed 0 "1 passed, 0 failed, 0 skipped, 1 unstable" \
	"unstable test_b (passed when tried again, before: too late)" <<'END'
echo run >>"$TRIES"
echo "test test_a ok"
[ "$(wc -l <"$TRIES")" -gt 1 ] || { echo "test test_b FAILED (too late)"; exit 1; }
echo "test test_b ok"
END
expect fails-what-fails-twice 1 "1 passed, 1 failed, 0 skipped" "FAILED test_b: broken" <<'END'
echo "test test_a ok"
echo "test test_b FAILED (broken)"
exit 1
END
expect fails-what-only-the-second-try-breaks 1 "0 passed, 1 failed, 0 skipped, 1 unstable" <<'END'
echo run >>"$TRIES"
[ "$(wc -l <"$TRIES")" -gt 1 ] || { echo "test test_a FAILED"; exit 1; }
echo "test test_a ok"
echo "test test_b FAILED"
exit 1
END
expect tries-no-more-than-it-may 1 "0 passed, 3 failed, 0 skipped" <<'END'
echo run >>"$TRIES"
[ "$(wc -l <"$TRIES")" -eq 1 ] || exit 0
for t in test_a test_b test_c; do echo "test $t FAILED"; done
exit 1
END
expect tries-no-crash-again 1 "1 passed, 1 failed, 0 skipped" "ended by SIGSEGV" <<'END'
echo run >>"$TRIES"
echo "test test_a ok"
[ "$(wc -l <"$TRIES")" -gt 1 ] || kill -SEGV $$
END
expect tries-no-finding-again 1 "0 passed, 1 failed, 0 skipped" "data race" <<'END'
echo run >>"$TRIES"
[ "$(wc -l <"$TRIES")" -gt 1 ] || { echo "ThreadSanitizer: data race"; echo "test test_a FAILED"; exit 1; }
echo "test test_a ok"
END
expect tries-no-random-test-again 1 "0 passed, 1 failed, 0 skipped" <<'END'
echo run >>"$TRIES"
echo 1..1
echo "seed 4711"
[ "$(wc -l <"$TRIES")" -gt 1 ] || { echo "not ok 1 - test_a"; exit 1; }
echo "ok 1 - test_a"
END
expect takes-back-nothing-that-was-found-at-last 1 "0 passed, 1 failed, 0 skipped" <<'END'
echo run >>"$TRIES"
[ "$(wc -l <"$TRIES")" -gt 1 ] || { echo "test test_a FAILED"; exit 1; }
echo "AddressSanitizer: heap-use-after-free"
echo "test test_a ok"
END
options="--again 2 --named"
expect tries-again-by-name 0 "1 passed, 0 failed, 0 skipped, 1 unstable" "trying again: test_b" <<'END'
if [ "${1:-}" = test_b ]; then
	[ "$POLLUX_SEED" = "$(cat "$TRIES")" ] && echo "test test_b ok"
	exit
fi
echo "$POLLUX_SEED" >"$TRIES"
echo "test test_a ok"
echo "test test_b FAILED"
exit 1
END
exit $failed
