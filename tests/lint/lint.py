#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks of the tree that no compiler makes.

Usage: lint.py [--root DIR] [CHECK...]

Prints what is wrong as path:line: text, then one line a check:
`test lint-CHECK ok` or `test lint-CHECK FAILED`.  Exits 1 when a check failed.
Only files that git tracks are looked at.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys

MOST_FILE_LINES = 800
MOST_FUNCTION_LINES = 90
SPDX = "SPDX-License-Identifier: Apache-2.0"
INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"')
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX)\b")
TOP = {"lab", "bench", "tests"}  # may use the public header of every folder


class Tree:
    def __init__(self, root):
        self.root = root
        names = self.run(["git", "ls-files", "-z"]).stdout.split("\0")
        self.files = sorted(n for n in names if n and os.path.isfile(os.path.join(root, n)))
        self.c_files = [n for n in self.files if n.endswith((".c", ".h"))]
        self.scripts = {n: kind for n in self.files if (kind := self.script_kind(n))}

    def run(self, command):
        return subprocess.run(command, cwd=self.root, stdout=subprocess.PIPE, text=True,
                              stderr=subprocess.STDOUT, check=False)

    def lines(self, name):
        with open(os.path.join(self.root, name), encoding="utf-8", errors="replace") as f:
            return f.read().splitlines()

    def script_kind(self, name):
        if name.endswith((".sh", ".py")):
            return name[-2:]
        with open(os.path.join(self.root, name), "rb") as f:
            start = f.read(64).split(b"\n")[0]
        if start.startswith(b"#!"):
            return "py" if b"python" in start else "sh" if b"sh" in start else None
        return None

    def layers(self):
        """{folder: folders it may use}, as the Makefile has it."""
        out = {}
        for line in self.run(["make", "-s", "layers"]).stdout.splitlines():
            folder, found, below = line.partition(":")
            if found:
                out[folder] = below.split()
        return out


def include_fault(name, target, layers):
    """Why `name` may not include `target`, or None."""
    parts, path = target.split("/"), name.split("/")
    folder, private = path[0], set()
    if len(parts) < 2:
        return "is not a path from the top folder"
    if parts[0] not in layers:
        return None if parts[0] in TOP and folder in TOP else "is in no folder that it may use"
    below = layers.get(folder)
    if folder == "tests":
        below = layers
        if path[1] == "unit" and path[2] in layers:
            below, private = [path[2], *layers[path[2]]], {path[2]}
        elif path[1] == "fuzz":
            private = set(layers)
        elif path[1] == "sim":
            private = {"replicate", "agent"}
        elif path[1] == "cpu":
            private = {"hypervisor"}
    elif folder in TOP:
        below, private = layers, {"replicate"} if folder == "bench" else set()
    if parts[0] == folder or parts[0] in private:
        return None
    if below is None or parts[0] not in below:
        return f"reaches up: {folder}/ may not use {parts[0]}/"
    if target != f"{parts[0]}/{parts[0]}.h":
        return f"is private to {parts[0]}/"
    return None


def check_include(tree):
    layers = tree.layers()
    if not layers:
        yield "Makefile:1: `make layers` lists no folders"
    for name in tree.c_files:
        for number, line in enumerate(tree.lines(name), 1):
            found = INCLUDE.match(line)
            fault = found and include_fault(name, found.group(1), layers)
            if fault:
                yield f'{name}:{number}: "{found.group(1)}" {fault}'


def check_spdx(tree):
    sources = [n for n in tree.files if n.endswith((".c", ".h", ".S", ".mk")) or n == "Makefile"]
    for name in sorted(set(sources) | set(tree.scripts)):
        if not any(SPDX in line for line in tree.lines(name)[:2]):
            yield f"{name}:1: the first line is not `{SPDX}`"


def check_size(tree):
    for name in tree.c_files + list(tree.scripts):
        count = len(tree.lines(name))
        if count > MOST_FILE_LINES:
            yield f"{name}:1: {count} lines; split it (at most {MOST_FILE_LINES})"
    command = ["ctags", "-f", "-", "--language-force=C", "--kinds-C=f", "--fields=ne", "-L", "-"]
    listing = subprocess.run(command, cwd=tree.root, input="\n".join(tree.c_files), text=True,
                             stdout=subprocess.PIPE, check=True).stdout
    for tag in listing.splitlines():
        name, path = tag.split("\t")[:2]
        extent = re.search(r"\tline:(\d+)\tend:(\d+)", tag)
        if not extent:
            continue
        first, last = map(int, extent.groups())
        if last - first + 1 > MOST_FUNCTION_LINES:
            yield f"{path}:{first}: {name}() has {last - first + 1} lines (at most {MOST_FUNCTION_LINES})"


def check_unfinished(tree):
    for name in tree.c_files + list(tree.scripts):
        if name == "tests/lint/lint.py":
            continue
        for number, line in enumerate(tree.lines(name), 1):
            if UNFINISHED.search(line):
                yield f"{name}:{number}: unfinished: {line.strip()}"


def tool(tree, command, files):
    """What an outside tool says when it refuses; in two halves on two processors."""
    if not shutil.which(command[0]):
        yield f"{command[0]} is not installed (make deps)"
        return
    halves = [h for h in (files[::2], files[1::2]) if h]
    running = [subprocess.Popen(command + h, cwd=tree.root, stdout=subprocess.PIPE, text=True,
                                stderr=subprocess.STDOUT) for h in halves]
    for process in running:
        text = process.communicate()[0]
        if process.returncode:
            yield text.rstrip() or f"{command[0]} exits {process.returncode}"


def check_format(tree):
    return tool(tree, ["clang-format", "--dry-run", "-Werror"], tree.c_files)


def check_shell(tree):
    names = [n for n, kind in tree.scripts.items() if kind == "sh"]
    # The lab's hosts run busybox sh, and read /proc/cmdline by words.
    return tool(tree, ["shellcheck", "-x", "--exclude=SC2187,SC2013"], names)


def check_python(tree):
    return tool(tree, ["pyflakes3"], [n for n, kind in tree.scripts.items() if kind == "py"])


def check_tidy(tree):
    flags = tree.run(["pkg-config", "--cflags", "libnl-3.0"]).stdout.split()
    names = [n for n in tree.files if n.endswith(".c") and not n.startswith("tests/")]
    if not shutil.which("clang-tidy"):
        yield "clang-tidy is not installed (make deps)"
        return
    halves = [h for h in (names[::2], names[1::2]) if h]
    running = [subprocess.Popen(["clang-tidy", "--quiet", *h, "--", "-I.", "-D_GNU_SOURCE",
                                 "-std=gnu17", *flags], cwd=tree.root, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) for h in halves]
    for process in running:
        text = process.communicate()[0]
        if process.returncode:
            yield text.rstrip() or f"clang-tidy exits {process.returncode}"


def check_cppcheck(tree):
    # It reads no system headers, but has to know the loops of this one.
    queue = "/usr/include/x86_64-linux-gnu/sys/queue.h"
    # The compilers see these two better.
    command = ["cppcheck", "-q", "--enable=warning,portability", "--error-exitcode=1",
               "--inline-suppr", "--std=c11", "-I.", "-D_GNU_SOURCE",
               f"--include={queue}",
               "--suppress=uninitvar", "--suppress=invalidScanfArgType_int",
               "--template={file}:{line}: {message} [{id}]"]
    names = [n for n in tree.files if n.endswith(".c") and not n.startswith("tests/")]
    return tool(tree, command, names)


CHECKS = {
    "include": check_include,
    "spdx": check_spdx,
    "size": check_size,
    "unfinished": check_unfinished,
    "format": check_format,
    "shell": check_shell,
    "python": check_python,
    "tidy": check_tidy,
    "cppcheck": check_cppcheck,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", default=".")
    parser.add_argument("checks", nargs="*", metavar="CHECK", help=" ".join(CHECKS))
    args = parser.parse_args()
    unknown = [name for name in args.checks if name not in CHECKS]
    if unknown:
        parser.error(f"no such check: {' '.join(unknown)}")
    tree, failed = Tree(args.root), False
    for name in args.checks or CHECKS:
        faults = list(CHECKS[name](tree))
        for fault in faults:
            print(fault)
        failed |= bool(faults)
        print(f"test lint-{name} {'FAILED' if faults else 'ok'}", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
