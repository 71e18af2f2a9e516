#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs test programs and counts single tests.

Usage: run_tests.py [--label L] [--results FILE] [--timeout S] [--jobs N] [--live]
                    [--again N [--named]] PROGRAM...

A PROGRAM is a path, or a quoted command line.  Two kinds of output count:
  cmocka's TAP (asked for through the environment): one result a test;
  lines `test|sim|fuzz|scenario NAME ok|FAILED|skipped (REASON)`.
A program that prints neither counts as one test by its exit code.  One that exits
badly, ends early, takes too long or leaves processes is a failure whatever it printed.
What a failing program said is shown; results are appended to FILE as
`ok|FAILED|skipped|unstable<TAB>LABEL<TAB>NAME<TAB>REASON` lines.

--again: on a machine that others share, a test may fail for want of a CPU.  When at most N
have failed, they run once more, one program at a time with nothing beside it, and one that
passes then is `unstable`: no failure, but told apart, with why it failed.  What is no matter
of time has no second try: a crash, a program not done in time, processes left behind, a test
that was not run, a sanitizer's finding, a failed assertion, a unit test that has printed a seed.
--named: the program takes the names of tests as arguments, so that only those run again; both
tries have the same $POLLUX_SEED.
"""

import argparse
import concurrent.futures
import os
import random
import re
import select
import shlex
import signal
import subprocess
import sys
import threading

GRACE_PIPE = 1  # seconds that a pipe may stay open after its program's end
GRACE = 30  # seconds between asking a program to end and making it
TAP_PLAN = re.compile(r"^1\.\.(\d+)\s*$")
TAP_RESULT = re.compile(r"\b(not ok|ok) (\d+) (- |# SKIP )(\S+)\s*$")
OUR_RESULT = re.compile(r"^(?:test|sim|fuzz|scenario) (\S+) (ok|FAILED|skipped)\b\s*(?:\((.*)\))?")
FINDING = re.compile(r"Sanitizer|runtime error:|Assertion `|killed by signal (?:4|6|7|8|11)\b|"
                     r"segfault at|general protection fault")
SEED = re.compile(r"seed[ =]\d", re.I)
VERDICTS = ("ok", "FAILED", "skipped", "unstable")


class Result:
    def __init__(self, verdict, name, reason="", final=False):
        self.verdict, self.name, self.reason = verdict, name, reason
        self.final = final  # a failure that a second try cannot take back


class Outcome:
    """What came of a program: its short name, what it printed, its results."""

    def __init__(self, command, name, text, results):
        self.command, self.name, self.text, self.results = command, name, text, results

    def failures(self):
        return [r for r in self.results if r.verdict == "FAILED"]

    def may_try_again(self):
        return not FINDING.search(self.text) and not any(r.final for r in self.failures())


def parse(name, text):
    """The single results in what a program printed. A skip's reason is the line before it."""
    results, planned, tap_seen, said, seeded = [], 0, 0, "", False
    for line in text.splitlines():
        plan, tap, ours = TAP_PLAN.match(line), TAP_RESULT.search(line), OUR_RESULT.match(line)
        if plan:
            planned += int(plan.group(1))
        elif tap:
            tap_seen += 1
            test = f"{name}/{tap.group(4)}"
            if tap.group(3) == "# SKIP ":
                results.append(Result("skipped", test, said or "no reason given"))
            else:
                results.append(Result("ok" if tap.group(1) == "ok" else "FAILED", test, "", seeded))
            said, seeded = "", False
        elif ours:
            results.append(Result(ours.group(2), ours.group(1), ours.group(3) or ""))
        elif line.strip() and not line.startswith("#"):
            said, seeded = line.strip(), seeded or bool(SEED.search(line))
    if tap_seen != planned:
        results.append(Result("FAILED", name, f"{tap_seen} of {planned} tests were run", True))
    return results


def conclude(name, results, code, overtime):
    """Add what the exit code says and the output does not."""
    failed = any(r.verdict == "FAILED" for r in results)
    if overtime:
        results.append(Result("FAILED", name, f"not done after {overtime} s", True))
    elif code < 0:
        results.append(Result("FAILED", name, f"ended by {signal.Signals(-code).name}", True))
    elif code and not failed:
        results.append(Result("FAILED", name, f"exit code {code}", bool(results)))
    elif not results:
        results.append(Result("ok", name))
    return results


def output(process, live):
    """What a program prints until its end: its text, and whether something that it left
    behind keeps the pipe open.  Single results also go to the terminal at once."""
    data, line, left = b"", b"", False
    while True:
        ended = process.poll() is not None  # before the wait: its last words come before its end
        ready = select.select([process.stdout], [], [], GRACE_PIPE)[0]
        if not ready and ended:
            left = True
            break
        chunk = os.read(process.stdout.fileno(), 65536) if ready else None
        if chunk == b"":
            break
        data += chunk or b""
        *whole, line = (line + (chunk or b"")).split(b"\n")
        for text in (w.decode(errors="replace") for w in whole) if live else ():
            if OUR_RESULT.match(text):
                print("    " + text, flush=True)
    return data.decode(errors="replace"), left


class Running:
    """The programs under way, each the leader of a session of its own, so that what it
    started can be ended with it: asked first, as a lab has hosts to take down."""

    def __init__(self):
        self.lock, self.processes, self.over = threading.Lock(), set(), False

    def start(self, words, env):
        with self.lock:
            if self.over:
                raise OSError("interrupted")
            process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                       stderr=subprocess.STDOUT, env=env, start_new_session=True)
            self.processes.add(process)
            return process

    def done(self, process):
        with self.lock:
            self.processes.discard(process)

    def end(self, process):
        signal_group(process, signal.SIGTERM)
        killer = threading.Timer(GRACE, signal_group, (process, signal.SIGKILL))
        killer.daemon = True
        killer.start()

    def end_all(self, *_):
        self.over = True
        for process in list(self.processes):
            self.end(process)


def signal_group(process, number):
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        pass


def run(running, command, timeout, live):
    words = shlex.split(command)
    name = re.sub(r"^.*?tests/(unit/)?", "", words[0])
    late = threading.Event()
    try:
        process = running.start(words, dict(os.environ, CMOCKA_MESSAGE_OUTPUT="TAP"))
    except OSError as e:
        return Outcome(command, name, f"{command}: {e}\n", [Result("FAILED", name, str(e), True)])

    def expire():
        late.set()
        running.end(process)

    timer = threading.Timer(timeout, expire)
    timer.start()
    text, left = output(process, live)
    code = process.wait()
    timer.cancel()
    running.done(process)
    signal_group(process, signal.SIGKILL)  # whatever it left behind
    results = conclude(name, parse(name, text), code, timeout if late.is_set() else 0)
    if left:
        results.append(Result("FAILED", name, "left a process behind that holds its output open",
                              True))
    return Outcome(command, name, text, results)


def show(outcome):
    failures = outcome.failures()
    if not failures:
        return
    print(f"---- {outcome.name} " + "-" * max(0, 70 - len(outcome.name)))
    told = [line for line in outcome.text.splitlines() if not re.match(r"(test \S+ )?ok\b", line)]
    print("\n".join(told)[-8000:])
    for r in failures:
        print(f"FAILED {r.name}{': ' + r.reason if r.reason else ''}")


def try_again(running, first, args):
    """Run what has failed once more, and judge by both."""
    failures = first.failures()
    names = [r.name for r in failures] if args.named else []
    print(f"trying again: {' '.join(names) or first.name}", flush=True)
    second = run(running, shlex.join([*shlex.split(first.command), *names]), args.timeout, args.live)
    show(second)
    passed = {r.name for r in second.results if r.verdict == "ok"}
    told = {r.name for r in failures}
    for r in failures:
        if r.name in passed and second.may_try_again():
            r.verdict = "unstable"
            r.reason = "passed when tried again" + (f", before: {r.reason}" if r.reason else "")
    first.results += [r for r in second.failures() if r.name not in told]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--label", default="")
    parser.add_argument("--results")
    parser.add_argument("--timeout", type=int, default=300, help="seconds for one program")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--live", action="store_true", help="show single results as they come")
    parser.add_argument("--again", type=int, default=0, help="so many failures get a second try")
    parser.add_argument("--named", action="store_true", help="... by their names")
    parser.add_argument("programs", nargs="*", metavar="PROGRAM")
    args = parser.parse_args()
    outcomes, running = [], Running()
    os.environ.setdefault("POLLUX_SEED", str(random.randrange(1 << 32)))
    signal.signal(signal.SIGINT, running.end_all)
    signal.signal(signal.SIGTERM, running.end_all)
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        jobs = [pool.submit(run, running, p, args.timeout, args.live) for p in args.programs]
        for job in concurrent.futures.as_completed(jobs):
            outcomes.append(job.result())
            show(outcomes[-1])
            sys.stdout.flush()
    failed = [o for o in outcomes if o.failures()]
    if sum(len(o.failures()) for o in failed) <= args.again and not running.over:
        for outcome in failed:
            if outcome.may_try_again():
                try_again(running, outcome, args)
    everything = [r for o in outcomes for r in o.results]
    if args.results:
        with open(args.results, "a", encoding="utf-8") as f:
            for r in sorted(everything, key=lambda r: r.name):
                f.write(f"{r.verdict}\t{args.label}\t{r.name}\t{r.reason}\n")
    count = {v: sum(r.verdict == v for r in everything) for v in VERDICTS}
    for r in everything:
        if r.verdict in ("skipped", "unstable") and not args.results:
            print(f"{r.verdict} {r.name} ({r.reason})")
    print(f"{count['ok']} passed, {count['FAILED']} failed, {count['skipped']} skipped" +
          (f", {count['unstable']} unstable" if count["unstable"] else ""))
    sys.exit(130 if running.over else 1 if count["FAILED"] else 0)


if __name__ == "__main__":
    main()
