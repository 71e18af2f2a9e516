# SPDX-License-Identifier: Apache-2.0
"""Initramfs images in cpio's "newc" format, written without being root."""
import pathlib
import shutil
import subprocess
import tempfile

from .place import LabError

FOLDERS = ("bb", "proc", "sys", "dev", "etc", "mod", "tmp", "run", "root")


class Archive:
    def __init__(self):
        self._parts = []
        self._inode = 0

    def _entry(self, name, mode, data=b"", rdev=(0, 0)):
        self._inode += 1
        encoded = name.encode() + b"\0"
        fields = (self._inode, mode, 0, 0, 1, 0, len(data), 0, 0, *rdev, len(encoded), 0)
        head = b"070701" + b"".join(b"%08X" % f for f in fields) + encoded
        self._parts += [head, b"\0" * (-len(head) % 4), data, b"\0" * (-len(data) % 4)]

    def folder(self, name):
        self._entry(name, 0o040755)

    def file(self, name, data, mode=0o644):
        self._entry(name, 0o100000 | mode, data)

    def link(self, name, target):
        self._entry(name, 0o120777, target.encode())

    def console(self):
        self._entry("dev/console", 0o020600, rdev=(5, 1))

    def bytes(self):
        self._entry("TRAILER!!!", 0)
        data = b"".join(self._parts)
        return data + b"\0" * (-len(data) % 512)


def busybox():
    path = shutil.which("busybox", path="/bin:/usr/bin")
    if not path:
        raise LabError("busybox is not installed (package busybox-static)")
    data = pathlib.Path(path).read_bytes()
    if b"/ld-linux-x86-64.so.2\0" in data[:4096]:
        raise LabError("the installed busybox is not static: install busybox-static")
    return data


def _stripped(path, work):
    """Debug sections are most of a module's size; without binutils it is taken as it is."""
    out = pathlib.Path(work) / path.name
    try:
        subprocess.run(["strip", "-g", "-o", out, path], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return path.read_bytes()
    return out.read_bytes()


def build(init, modules, programs, folders=(), later=None):
    """init: the /init script's text; it finds only /bb/busybox. modules: name -> file, loaded at
    boot in this order. later: name -> (name -> file), those that are there to be loaded when wanted,
    each with all that it needs. programs: name in the archive -> file."""
    archive = Archive()
    for name in FOLDERS + tuple(folders):
        archive.folder(name)
    archive.console()
    archive.file("bb/busybox", busybox(), 0o755)
    archive.file("init", init.encode(), 0o755)
    files = dict(modules)
    for needed in (later or {}).values():
        files.update(needed)
    with tempfile.TemporaryDirectory() as work:
        for name, path in files.items():
            archive.file(f"mod/{name}.ko", _stripped(path, work))
    archive.file("mod/order", "".join(f"{m}\n" for m in modules).encode())
    for name, needed in (later or {}).items():
        archive.file(f"mod/{name}.order", "".join(f"{m}\n" for m in needed).encode())
    for name, path in programs.items():
        archive.file(name, pathlib.Path(path).read_bytes(), 0o755)
    return archive.bytes()
