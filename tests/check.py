#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`make check`: every phase in turn, then the totals.

Usage: check.py BUILD

Each phase is a make target.  One that runs tests leaves its results in a file
(see run_tests.py, also for what is tried again); any other counts as one test.
A failed phase does not stop the next.  Logs are kept in BUILD/check/.  The last
line has the totals of all.
"""

import os
import re
import signal
import subprocess
import sys
import time

SANITIZED = ["CC=clang", "SAN=address,undefined", "FUZZ=1"]
AGAIN = "AGAIN=3"  # of what has processes, threads and hosts that wait for each other
EVERYTHING = ["libs", "programs", "unit-programs", "sim-program", "cpu-program", "guests",
              "native-programs"]


def phases(build):
    """(name, arguments for make)"""
    yield "lint", [f"BUILD={build}", "lint"]
    yield "build-gcc", [f"BUILD={build}", "CC=gcc", *EVERYTHING, "scenario-programs"]
    yield "build-clang", [f"BUILD={build}-clang", "CC=clang", *EVERYTHING]
    yield "tools-test", [f"BUILD={build}", "CC=gcc", "tools-test"]
    yield "unit", [f"BUILD={build}", "CC=gcc", AGAIN, "unit-run"]
    yield "lab-test", [f"BUILD={build}", "CC=gcc", AGAIN, "lab-test"]
    yield "native", [f"BUILD={build}", "CC=gcc", AGAIN, "native-test"]
    yield "linux", [f"BUILD={build}", "CC=gcc", AGAIN, "linux-test-run"]
    yield "build-asan", [f"BUILD={build}-asan", *SANITIZED, *EVERYTHING, "fuzzers"]
    yield "unit-asan", [f"BUILD={build}-asan", *SANITIZED, AGAIN, "unit-run"]
    yield "build-tsan", [f"BUILD={build}-tsan", "CC=gcc", "SAN=thread", "unit-programs"]
    yield "unit-tsan", [f"BUILD={build}-tsan", "CC=gcc", "SAN=thread", AGAIN, "unit-threads-run"]
    yield "sim", [f"BUILD={build}", "CC=gcc", "sim-run"]
    yield "cpu", [f"BUILD={build}", "CC=gcc", "cpu-diff-run"]
    yield "fuzz", [f"BUILD={build}-asan", *SANITIZED, "fuzz-run"]
    yield "scenario", [f"BUILD={build}", "CC=gcc", AGAIN, "scenario-run"]
    yield "scenario-lab", [f"BUILD={build}", "CC=gcc", AGAIN, "scenario-lab-run"]


def results_read(path):
    """[(verdict, label, name, reason)]"""
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as f:
        return [tuple(line.rstrip("\n").split("\t")) for line in f]


class Interrupted(BaseException):
    """A signal asked for the end; raised where the phase is being read, so that nothing is
    read twice at once."""


def interrupt(number, _frame):
    signal.signal(number, signal.SIG_IGN)
    raise Interrupted(number)


def phase_end(process, number):
    """Let the phase clean up (a lab has hosts to take down), then stop."""
    print("Interrupted: ending what runs.", flush=True)
    os.killpg(process.pid, number)
    process.stdout.read()
    process.wait()
    sys.exit(128 + number)


def make(name, arguments, folder, results):
    """Run one phase, its output to the terminal only when it says something went wrong."""
    log = os.path.join(folder, f"{name}.log")
    env = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    command = ["make", "--no-print-directory", "-k", f"-j{os.cpu_count() or 1}",
               f"RESULTS={results}", f"LABEL={name}", *arguments]
    with open(log, "w", encoding="utf-8") as f:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                   env=env, text=True, errors="replace", start_new_session=True)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, interrupt)
        try:
            for line in process.stdout:
                f.write(line)
                if line.startswith("    "):  # a result as it comes, of a phase that takes minutes
                    print(line, end="", flush=True)
            code = process.wait()
        except Interrupted as signalled:
            phase_end(process, signalled.args[0])
    if code or count(results_read(results))["unstable"]:
        with open(log, encoding="utf-8") as f:
            told = [line for line in f if not re.match(r"\s*test \S+ ok\b", line)]
            print("".join(told)[-12000:])
    return code


def count(results):
    return {v: sum(r[0] == v for r in results) for v in ("ok", "FAILED", "skipped", "unstable")}


def sentence(results):
    n = count(results)
    unstable = f", {n['unstable']} unstable" if n["unstable"] else ""
    return f"{n['ok']} passed, {n['FAILED']} failed, {n['skipped']} skipped{unstable}"


def main():
    build = sys.argv[1]
    folder = os.path.join(build, "check")
    os.makedirs(folder, exist_ok=True)
    everything, start = [], time.monotonic()
    for name, arguments in phases(build):
        print(f"{name} ...", flush=True)
        path, before = os.path.join(folder, f"{name}.results"), time.monotonic()
        if os.path.exists(path):
            os.remove(path)
        code = make(name, arguments, folder, path)
        results = results_read(path)
        if code and not count(results)["FAILED"]:
            results.append(("FAILED", name, name, f"make exits {code}, see {folder}/{name}.log"))
        if not code and not results:
            results.append(("ok", name, name, ""))
        print(f"{name}: {sentence(results)} in {time.monotonic() - before:.1f} s", flush=True)
        everything += results
    print()
    for verdict, label, name, reason in everything:
        if verdict != "ok":
            print(f"{verdict} {label}: {name}{f' ({reason})' if reason else ''}")
    print(f"All of it took {time.monotonic() - start:.0f} s; logs in {folder}/")
    print(sentence(everything))
    sys.exit(1 if count(everything)["FAILED"] else 0)


if __name__ == "__main__":
    main()
