# SPDX-License-Identifier: Apache-2.0
"""Guests that do a piece of work and power off: their initramfs, and what each piece must print."""
import os
import pathlib
import shutil
import subprocess
import tempfile

from . import initramfs
from .place import CHECKOUT, LabError

MODULES = ("virtio_ring", "virtio_pci", "virtio_blk", "virtio_net", "virtio_console", "virtio_rng")
DISK_MODULES = ("crc32c_generic", "ext4")
SCRIPT = CHECKOUT / "lab/guest/works"
INIT = CHECKOUT / "lab/guest/work-init"
SOURCE = CHECKOUT / "lab/guest/work-tcc.c"
LIBRARIES = "usr/lib/x86_64-linux-gnu"
TCC = f"{LIBRARIES}/tcc"

# What only differs by size: enough work to mean something, little enough for a CPU in software.
SIZES = {"sh": 20000, "md5sum": 8192, "sha256sum": 4096, "gzip": 1500, "awk": 2000, "tcc": 2000,
         "fsync": 40, "net": 2000000, "smp": 4096, "idle": 20}


def _headers():
    """Those that the compiler reads for the guest's program."""
    command = ["gcc", "-M", "-nostdinc", "-D__TINYC__", "-isystem", f"/{TCC}/include",
               "-isystem", "/usr/include/x86_64-linux-gnu", "-isystem", "/usr/include", SOURCE]
    try:
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError) as err:
        raise LabError(f"cannot list the C headers for the guest: {err}") from None
    return {word for word in text.split() if word.startswith("/usr/")}


def _compiler_files():
    """tcc and all that it needs to compile, link and run a program: name -> file."""
    if not shutil.which("tcc"):
        raise LabError("tcc is not installed (package tcc)")
    names = {f"{LIBRARIES}/{n}" for n in ("crt1.o", "crti.o", "crtn.o", "libc.so", "libm.so",
                                          "libc_nonshared.a")}
    names |= {f"lib/x86_64-linux-gnu/{n}" for n in ("libc.so.6", "libm.so.6", "libmvec.so.1",
                                                    "libdl.so.2", "libpthread.so.0",
                                                    "ld-linux-x86-64.so.2")}
    names |= {"lib64/ld-linux-x86-64.so.2", f"{TCC}/libtcc1.a"}
    names |= {n.lstrip("/") for n in _headers()}
    files = {name: pathlib.Path("/") / name for name in sorted(names)}
    files.update({"bin/tcc": pathlib.Path(shutil.which("tcc")), "usr/src/work-tcc.c": SOURCE})
    missing = [str(f) for f in files.values() if not f.is_file()]
    if missing:
        raise LabError(f"not there: {missing[0]} (packages tcc and libc6-dev)")
    return files


def _folders(files):
    """Every folder that the files are in, parents first."""
    parents = {str(p) for name in files for p in pathlib.PurePath(name).parents}
    return tuple(sorted(parents - {"."}))


def image(kernel, compiler=False):
    """The initramfs for a kernel, its bytes."""
    files = {"bin/works": SCRIPT}
    if compiler:
        files.update(_compiler_files())
    return initramfs.build(INIT.read_text(), kernel.modules(MODULES), files, _folders(files),
                           later={"disk": kernel.modules(DISK_MODULES)})


def image_file(kernel, folder, compiler=False):
    path = pathlib.Path(folder) / f"{kernel.name}{'-tcc' if compiler else ''}.initrd"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(image(kernel, compiler))
    temporary.rename(path)
    return path


def expected(name, size, cpus=1):
    """What the work prints in the guest, found by doing it here with the same busybox."""
    with tempfile.TemporaryDirectory(prefix="pollux-work-") as folder:
        tools, place = pathlib.Path(folder) / "bb", pathlib.Path(folder) / "work"
        tools.mkdir()
        place.mkdir()
        busybox = shutil.which("busybox", path="/bin:/usr/bin")
        if not busybox:
            raise LabError("busybox is not installed (package busybox-static)")
        subprocess.run([busybox, "--install", "-s", tools], check=True, capture_output=True)
        tcc = shutil.which("tcc")
        if tcc:
            (tools / "tcc").symlink_to(tcc)
        done = subprocess.run([busybox, "sh", SCRIPT, name, str(size)], cwd=place, text=True,
                              capture_output=True, check=False,
                              env={"PATH": str(tools), "WORK_NATIVE": str(cpus),
                                   "WORK_SOURCE": str(SOURCE)})
        if done.returncode or not done.stdout:
            raise LabError(f"{name} does not work here: {done.stderr.strip() or done.returncode}")
        return done.stdout.strip()
