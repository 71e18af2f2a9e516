# SPDX-License-Identifier: Apache-2.0
"""What a lab host is made of: its kernel, initramfs, disk and emulator command line."""
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess

from . import initramfs
from .kernel import HOST_KERNEL, Kernel
from .place import CHECKOUT, LabError, cache_dir

BOOT_MODULES = ("virtio_ring", "virtio_pci", "virtio_net", "virtio_blk", "virtio_console", "9p",
                "9pnet_virtio", "ext4", "crc32c_generic", "tun", "bridge")
LATER_MODULES = ("kvm_amd", "kvm_intel", "sch_plug", "sch_netem", "sch_ingress", "cls_matchall", "act_mirred", "act_gact",
                 "veth", "ifb", "nbd", "loop", "vhost_net")
DISK_BYTES = 1 << 30
REPL_MTU = 60000
FRONT_MTU = 1500
LACKING = ("fsgsbase", "avx2", "bmi2")
COMMAND_LINE = "console=ttyS0 quiet panic=1 tsc=reliable mitigations=off no_timer_check"


class HostSpec:
    """One host by its name and place in the list. A name that begins with "client" is a machine of
    users: no replication link, no guests, little memory."""

    def __init__(self, name, index):
        if not re.fullmatch(r"[a-z][a-z0-9-]{0,30}", name):
            raise LabError(f"not a host name: {name!r}")
        self.name = name
        self.index = index
        self.client = name.startswith("client")
        self.memory = 256 if self.client else 1024
        # The first host's CPU has less: what begins there can go to the others and back.
        self.lacking = LACKING if index == 1 else ()
        self.networks = ("front",) if self.client else ("repl", "front")


def specs(names):
    if not names or len(names) > 9 or len(set(names)) != len(names):
        raise LabError("one to nine different host names are needed")
    return [HostSpec(name, i + 1) for i, name in enumerate(names)]


def hosts_file(hosts):
    lines = []
    for h in hosts:
        if not h.client:
            lines.append(f"10.77.0.{h.index} {h.name} {h.name}-repl")
        lines.append(f"10.78.0.{h.index} {h.name}-front" + (f" {h.name}" if h.client else ""))
    return "".join(f"{line}\n" for line in lines)


def initramfs_file(kernel, tools):
    """The hosts' initramfs, in the cache under a name made of all that goes into it."""
    later = {name: kernel.modules([name]) for name in LATER_MODULES}
    order = kernel.modules(BOOT_MODULES)
    init = (CHECKOUT / "lab/host-init").read_text()
    programs = {"labbin/labd": tools / "labd", "labbin/fence-lab": tools / "fence-lab",
                "labbin/lab-modprobe": CHECKOUT / "lab/lab-modprobe",
                "labbin/host-setup": CHECKOUT / "lab/host-setup"}
    digest = hashlib.sha256(json.dumps([kernel.name, init, *order, *later]).encode())
    digest.update(initramfs.busybox())
    digest.update(pathlib.Path(initramfs.__file__).read_bytes())
    for path in programs.values():
        digest.update(path.read_bytes())
    out = cache_dir() / f"host-{digest.hexdigest()[:16]}.cpio"
    if not out.exists():
        for old in cache_dir().glob("host-*.cpio"):
            old.unlink(missing_ok=True)
        image = initramfs.build(init, order, programs, folders=("labbin",), later=later)
        temporary = out.with_suffix(f".{os.getpid()}")
        temporary.write_bytes(image)
        temporary.rename(out)
    return out


def disk_make(path):
    with open(path, "wb") as disk:
        disk.truncate(DISK_BYTES)
    mkfs = shutil.which("mke2fs", path="/usr/sbin:/sbin:/usr/bin")
    if not mkfs:
        raise LabError("mke2fs is not installed (package e2fsprogs)")
    subprocess.run([mkfs, "-q", "-t", "ext4", "-E", "lazy_itable_init=1,lazy_journal_init=1",
                    "-O", "^metadata_csum", str(path)], check=True)


def accelerator_args(accel, lacking=()):
    less = "".join(f",-{feature}" for feature in lacking)
    if accel == "kvm":
        return ["-accel", "kvm", "-cpu", f"host{less}", "-smp", "2"]
    return ["-accel", "tcg,thread=multi,tb-size=256", "-cpu", f"EPYC,+svm,+npt{less}", "-smp", "1"]


def _share(tag, path, readonly):
    path = str(path).replace(",", ",,")
    options = f"local,id={tag},path={path},security_model=none" + (",readonly=on" if readonly else "")
    return ["-fsdev", options, "-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]


def _nic(spec, network, number):
    mac = f"52:54:00:77:{number:02x}:{spec.index:02x}"
    return ["-netdev", f"dgram,id={network},local.type=unix,local.path=net/{network}-{spec.name}.vm,"
            f"remote.type=unix,remote.path=net/{network}-{spec.name}.sw",
            "-device", f"virtio-net-pci,netdev={network},mac={mac},romfile="]


def emulator_args(spec, place, config):
    """The command line of the host's QEMU, which runs in the lab's folder: sockets are named
    relative to it, as their names have a length limit."""
    folder = f"hosts/{spec.name}"
    append = (f"{COMMAND_LINE} lab.name={spec.name} lab.id={spec.index} lab.mtu={REPL_MTU}"
              + ("" if spec.client else " lab.bridge=1"))
    args = ["qemu-system-x86_64", "-name", f"lab-{spec.name}", "-machine", "q35",
            *accelerator_args(config["accel"], spec.lacking), "-m", str(spec.memory),
            "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-rtc", "base=utc",
            "-serial", f"file:{folder}/console.log",
            "-chardev", f"socket,id=qmp,path={folder}/qmp.sock", "-mon", "chardev=qmp,mode=control",
            "-device", "virtio-serial-pci",
            "-chardev", f"socket,id=fence,path={folder}/fence.sock",
            "-device", "virtserialport,chardev=fence,name=pollux.fence",
            "-device", "virtio-rng-pci",
            "-kernel", config["kernel"], "-initrd", config["initrd"], "-append", append,
            "-drive", f"file={folder}/disk.img,format=raw,if=none,id=disk,cache=unsafe",
            "-device", "virtio-blk-pci,drive=disk",
            "-netdev", "user,id=mgmt,restrict=on,hostfwd=tcp:127.0.0.1:0-:4000",
            "-device", f"virtio-net-pci,netdev=mgmt,mac=52:54:00:77:00:{spec.index:02x},romfile="]
    args += _share("usr", "/usr", True) + _share("lab", place.share, False)
    args += _share("pollux", config["build"], True)
    for network in spec.networks:
        args += _nic(spec, network, {"repl": 1, "front": 2}[network])
    return args


def boot_files(tools, say):
    kernel = Kernel(HOST_KERNEL, say)
    return str(kernel.vmlinux), str(initramfs_file(kernel, tools))
