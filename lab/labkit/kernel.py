# SPDX-License-Identifier: Apache-2.0
"""Debian's kernel packages, fetched and unpacked into the cache without installing them."""
import ctypes
import fcntl
import lzma
import mmap
import os
import pathlib
import re
import shutil
import struct
import subprocess
import tempfile
import zlib

from .place import LabError, cache_dir

HOST_KERNEL = "linux-image-amd64"
GUEST_KERNEL = "linux-image-cloud-amd64"
ARCHIVE_KEY = "/usr/share/keyrings/debian-archive-keyring.gpg"
BACKPORTS = "bookworm-backports"
# What `kernel --which` knows: the package, and the suite that the machine's own sources lack.
KERNELS = {"cloud": (GUEST_KERNEL, None), "full": (HOST_KERNEL, None), "newer": (GUEST_KERNEL, BACKPORTS)}


class KernelMissing(LabError):
    """No such package can be had here: a test that wanted it is skipped, not failed."""


def _run(argv, **kwargs):
    try:
        return subprocess.run(argv, check=True, capture_output=True, **kwargs).stdout
    except FileNotFoundError:
        raise LabError(f"{argv[0]} is not installed") from None
    except subprocess.CalledProcessError as err:
        detail = err.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["failed"]
        words = " ".join(w for before, w in zip([None, *argv], map(str, argv)) if "-o" not in (before, w))
        raise LabError(f"{words}: {detail[0]}") from None


def _mirror():
    """Where this machine has its Debian packages from."""
    text = _run(["apt-get", "indextargets", "--format", "$(REPO_URI)", "Codename: bookworm",
                 "Created-By: Packages"], text=True)
    if text:
        return text.splitlines()[0]
    raise LabError("the package lists have no suite bookworm: run `apt-get update` as root")


class Suite:
    """A suite that the machine's sources lack, with package lists of its own: those of the machine
    stay as they are."""

    def __init__(self, name):
        self.name = name
        self.path = cache_dir() / f"apt-{name}"
        self.options = ["-o", "Dir::Etc::sourcelist=/dev/null",
                        "-o", f"Dir::Etc::sourceparts={self.path}/sources",
                        "-o", "Dir::Etc::parts=/dev/null",
                        "-o", f"Dir::State={self.path}/state",
                        "-o", "Dir::State::status=/var/lib/dpkg/status",
                        "-o", f"Dir::Cache={self.path}/cache",
                        "-o", "APT::Sandbox::User="]

    def refresh(self):
        for folder in ("sources", "state/lists/partial", "cache/archives/partial"):
            (self.path / folder).mkdir(parents=True, exist_ok=True)
        (self.path / "sources" / "suite.sources").write_text(
            f"Types: deb\nURIs: {_mirror()}\nSuites: {self.name}\nComponents: main\n"
            f"Signed-By: {ARCHIVE_KEY}\n")
        _run(["apt-get", *self.options, "-o", "Acquire::Retries=1", "-o", "Acquire::http::Timeout=20",
              "--error-on=any", "update"])


def _cached(meta, suite):
    """The newest package of the kind that the cache holds, or None."""
    pattern = meta.replace("linux-image-", "linux-image-[0-9]*-")
    found = [p for p in cache_dir().glob(pattern)
             if ("-cloud-" in p.name) == ("-cloud-" in meta) and _suite_of(p) == suite]
    return max(found, key=lambda p: p.stat().st_mtime).name if found else None


def _suite_of(path):
    mark = path / "suite"
    return mark.read_text() if mark.exists() else None


def package_name(meta, suite=None):
    """linux-image-amd64 -> linux-image-6.1.0-NN-amd64, as the package lists have it now; the
    newest that the cache holds where the lists are absent."""
    try:
        if suite:
            suite.refresh()
        text = _run(["apt-cache", *(suite.options if suite else ()), "depends", meta], text=True)
        why = "not in the package lists"
    except LabError as err:
        text, why = "", str(err)
    match = re.search(r"Depends: (linux-image-\d\S*)", text)
    if match:
        return match.group(1)
    cached = _cached(meta, suite.name if suite else None)
    if cached:
        return cached
    if suite:
        raise KernelMissing(f"no kernel package {meta} of {suite.name} to be had: {why}")
    raise KernelMissing(f"no kernel package {meta} in the package lists: run `apt-get update` as root")


def _lz4_legacy(data):
    """Blocks of at most 8 MiB, each after its compressed size, as `lz4 -l` makes them; the kernel
    build appends the whole's size. The library is there wherever apt is."""
    try:
        decompress = ctypes.CDLL("liblz4.so.1").LZ4_decompress_safe
    except OSError:
        raise LabError("liblz4.so.1 is not installed (package liblz4-1)") from None
    out, at = [], 0
    buffer = ctypes.create_string_buffer(8 << 20)
    while at + 8 < len(data):
        (size,) = struct.unpack_from("<I", data, at)
        got = decompress(data[at + 4:at + 4 + size], buffer, size, len(buffer))
        if got < 0 or at + 4 + size > len(data):
            raise LabError("damaged lz4 data in the kernel image")
        out.append(buffer.raw[:got])
        at += 4 + size
    return b"".join(out)


def elf_from_bzimage(image):
    """The ELF kernel inside a bzImage, by the setup header's payload_offset and payload_length
    (Documentation/arch/x86/boot.rst)."""
    if len(image) < 0x250 or image[0x202:0x206] != b"HdrS":
        raise LabError("not a bzImage")
    setup = (image[0x1f1] or 4) + 1
    offset, length = struct.unpack_from("<II", image, 0x248)
    payload = image[setup * 512 + offset:setup * 512 + offset + length]
    if payload.startswith(b"\xfd7zXZ\0"):
        elf = lzma.LZMADecompressor().decompress(payload)
    elif payload.startswith(b"\x1f\x8b"):
        elf = zlib.decompressobj(31).decompress(payload)
    elif payload.startswith(b"\x28\xb5\x2f\xfd"):
        elf = _run(["zstd", "-dc"], input=payload[:-4])  # the build appends its size
    elif payload.startswith(b"\x02\x21\x4c\x18"):
        elf = _lz4_legacy(payload[4:])
    else:
        raise LabError(f"kernel payload of an unknown kind: {payload[:6].hex()}")
    if not elf.startswith(b"\x7fELF"):
        raise LabError("the kernel's payload is not ELF")
    return elf


def _unpack(package, into, suite, say):
    say(f"fetching {package}")
    with tempfile.TemporaryDirectory(dir=into.parent) as work:
        work = pathlib.Path(work)
        _run(["apt-get", *(suite.options if suite else ()), "download", package], cwd=work)
        (deb,) = work.glob("*.deb")
        tree = work / "tree"
        _run(["dpkg", "-x", deb, tree])
        (bzimage,) = (tree / "boot").glob("vmlinuz-*")
        (modules,) = (tree / "lib/modules").iterdir()
        out = work / "out"
        out.mkdir()
        shutil.copy(bzimage, out / "vmlinuz")
        (out / "vmlinux").write_bytes(elf_from_bzimage(bzimage.read_bytes()))
        modules.rename(out / "modules")
        if suite:
            (out / "suite").write_text(suite.name)
        out.rename(into)


def _unpack_debug(package, into, say):
    """The kernel alone, of a package that has all modules too."""
    say(f"fetching {package}, which is large")
    with tempfile.TemporaryDirectory(dir=into.parent) as work:
        try:
            _run(["apt-get", "download", package], cwd=work)
        except LabError as err:
            raise KernelMissing(str(err)) from None
        (deb,) = pathlib.Path(work).glob("*.deb")
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE) as tar:
            _run(["tar", "-x", "--wildcards", "./usr/lib/debug/boot/vmlinux-*"], stdin=tar.stdout,
                 cwd=work)
        (vmlinux,) = pathlib.Path(work).glob("usr/lib/debug/boot/vmlinux-*")
        vmlinux.rename(into)


def banner(vmlinux):
    """What the kernel of that file says first of itself."""
    with open(vmlinux, "rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as image:
        at = image.find(b"Linux version ")
        return image[at:image.find(b"\n", at)]


class Kernel:
    """An unpacked kernel package: vmlinuz (bzImage), vmlinux (ELF, PVH), modules/."""

    def __init__(self, meta, say=print, suite=None):
        suite = Suite(suite) if suite else None
        self.name = package_name(meta, suite)
        self.path = cache_dir() / self.name
        with open(cache_dir() / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not self.path.exists():
                _unpack(self.name, self.path, suite, say)
        self.vmlinuz = self.path / "vmlinuz"
        self.vmlinux = self.path / "vmlinux"

    def debug(self, say=print):
        """The same kernel with its debug symbols."""
        path = self.path / "vmlinux-debug"
        with open(cache_dir() / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                _unpack_debug(f"{self.name}-dbg", path, say)
        if banner(path) != banner(self.vmlinux):
            raise KernelMissing(f"the debug symbols in {path} are of another build")
        return path

    def _plain(self, path):
        """A module's file as it is loaded: newer packages have them compressed."""
        if path.suffix != ".xz":
            return path
        plain = self.path / "plain" / path.stem
        if not plain.exists():
            plain.parent.mkdir(exist_ok=True)
            temporary = plain.with_name(f".{plain.name}.{os.getpid()}")
            temporary.write_bytes(lzma.decompress(path.read_bytes()))
            temporary.rename(plain)
        return plain

    def modules(self, wanted):
        """The files of the wanted modules and what they depend on, in loading order; those built
        into the kernel are passed over."""
        files = {}
        for root, _, names in os.walk(self.path / "modules" / "kernel"):
            for name in names:
                stem, dot, _ = name.partition(".ko")
                if dot:
                    files[stem.replace("-", "_")] = pathlib.Path(root) / name
        builtin = {os.path.basename(line)[:-3].replace("-", "_") for line in
                   (self.path / "modules" / "modules.builtin").read_text().split()}
        order = {}

        def add(name):
            name = name.replace("-", "_")
            if name in order or name in builtin:
                return
            if name not in files:
                raise LabError(f"{self.name} has no module {name}")
            path = self._plain(files[name])
            data = path.read_bytes()
            depends = re.search(rb"\0depends=([^\0]*)\0", data)
            for dependency in filter(None, depends.group(1).decode().split(",") if depends else []):
                add(dependency)
            order[name] = path

        for name in wanted:
            add(name)
        return order


def kernel(which, say=print):
    """One of KERNELS, fetched if the cache lacks it."""
    meta, suite = KERNELS[which]
    return Kernel(meta, say, suite)
