# SPDX-License-Identifier: Apache-2.0
"""The lab's guest: Debian's cloud kernel, unmodified, and a small initramfs with the counter
server. In a lab host it is in /lab/guest."""
import os
import pathlib
import threading

from . import initramfs
from .kernel import GUEST_KERNEL, Kernel
from .place import CHECKOUT

MODULES = ("virtio_ring", "virtio_pci", "virtio_net", "virtio_blk", "virtio_console", "virtio_rng",
           "button", "evdev")
PROGRAMS = ("counter-server", "guest-load", "power-button")
TOOLS = ("counter-client", "echo-probe", "disk-check")


def _write(path, data, mode=0o644):
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    temporary.write_bytes(data)
    temporary.chmod(mode)
    temporary.rename(path)


def folder(build, tools, say=print):
    """build/lab/guest with vmlinuz, vmlinux, initrd.img and the client's programs."""
    out = pathlib.Path(build) / "lab" / "guest"
    out.mkdir(parents=True, exist_ok=True)
    kernel = Kernel(GUEST_KERNEL, say)
    for name in ("vmlinuz", "vmlinux"):
        source, target = kernel.path / name, out / name
        if not target.exists() or target.stat().st_size != source.stat().st_size:
            _write(target, source.read_bytes())
    init = (CHECKOUT / "lab/guest/guest-init").read_text()
    image = initramfs.build(init, kernel.modules(MODULES),
                            {f"bin/{p}": tools / p for p in PROGRAMS}, folders=("bin",))
    target = out / "initrd.img"
    if not target.exists() or target.read_bytes() != image:
        _write(target, image)
    for name in TOOLS:
        target, program = out / name, (tools / name).read_bytes()
        if not target.exists() or target.read_bytes() != program:
            _write(target, program, 0o755)
    return out
