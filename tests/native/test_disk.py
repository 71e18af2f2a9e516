# SPDX-License-Identifier: Apache-2.0
"""The standby's disk: the same, to the byte, when the guest is quiet; right after a failover."""
import os
import random

from case import case
from director import Refused
from pair import Pair, wait_until

GUEST = {"guest": "blk", "nic": False, "disk": "4M"}


@case("disk-first-copy")
def first_copy(t):
    """An old disk, full of data that the guest never touches."""
    pair = Pair(t, disk="8M", boot=False)
    with open(pair.primary.disk, "r+b") as f:
        for _ in range(40):
            f.seek(random.randrange(8 << 20) // 512 * 512)
            f.write(os.urandom(random.choice([512, 4096, 100000]))[:(8 << 20) - f.tell()])
    pair.primary.process.ask("boot")
    pair.add_standby()
    with open(pair.standby.disk, "r+b") as f:  # what was there before must go
        f.seek(1 << 20)
        f.write(os.urandom(1 << 20))
    pair.load()
    pair.protect()
    assert pair.disks_equal()


def protected_under_load(t, ops):
    """A guest that writes on after it is protected, and then falls quiet."""
    pair = Pair(t, cmdline=f"blocks=64 depth=8 ops={ops} linger=1 report=200", boot=False, **GUEST)
    pair.add_standby()
    pair.primary.process.ask("boot")
    pair.primary.console.wait("blk: done")
    pair.protect(mode="interval", streams=2)
    assert "blk: done writes" not in pair.primary.console.text, "it fell quiet too soon"
    pair.primary.console.wait_more("blk: done")
    return pair


@case("disk-quiet-after-load", seconds=400)
def quiet(t):
    pair = protected_under_load(t, 48000)
    pair.primary.console.wait("blk: done writes", 240)
    pair.wait_epochs(2)
    wait_until(pair.disks_equal, 10, "equal disks")


@case("disk-over-failovers", mode="interval")
@case("disk-over-failovers-event", mode="event")
def failovers(t, mode):
    """The guest goes on checking what it reads, on the image of the last whole epoch."""
    pair = Pair(t, cmdline="blocks=64 depth=16 report=200", **GUEST)
    pair.primary.console.wait("blk: done")
    for _ in range(5):
        pair.protect(mode=mode, interval_ms=random.randint(3, 30), streams=random.randint(1, 3),
                     compression=random.choice(["none", "lz4", "zlib"]))
        for _ in range(2):
            pair.primary.console.wait_more("blk: done")
        pair.wait_epochs(random.randint(1, 6))
        pair.failover()
        pair.primary.console.wait("blk: done")
        pair.primary.console.wait_more("blk: done")
        pair.primary.console.wait_more("blk: done")


@case("disk-holds-whole-blocks")
def whole_blocks(t):
    """What the twin leaves behind when it is stopped: every block holds one write, whole."""
    pair = Pair(t, cmdline="blocks=128 depth=8 report=200", **GUEST)
    pair.primary.console.wait("blk: done")
    pair.protect(mode="interval", interval_ms=10)
    for _ in range(3):
        pair.primary.console.wait_more("blk: done")
    pair.failover()
    for _ in range(3):
        pair.primary.console.wait_more("blk: done")
    pair.primary.process.ask("pause")
    pair.primary.process.ask("quit")
    assert pair.primary.process.child.wait() == 0
    with open(pair.primary.disk, "rb") as f:
        blocks = [f.read(4096) for _ in range(128)]
    written = sum(block_is_whole(i, b) for i, b in enumerate(blocks))
    assert written > 64, f"only {written} blocks were written"


def block_is_whole(number, data):
    """tests/guests/blk.c, word(): every eighth word is the first one plus its place."""
    first = int.from_bytes(data[:8], "little")
    if not any(data):
        return False
    for i in range(0, 512, 8):
        word = int.from_bytes(data[8 * i:8 * i + 8], "little")
        assert word == (first + i) % (1 << 64), f"block {number} is torn at word {i}"
    return True


@case("disk-re-protected-and-equal", seconds=400)
def protected_again(t):
    """After a failover the new owner's disk is copied whole to a third one."""
    pair = protected_under_load(t, 96000)
    pair.failover()
    pair.primary.console.wait("blk: done")
    pair.protect(mode="interval")
    pair.primary.console.wait("blk: done writes", 240)
    pair.wait_epochs(2)
    wait_until(pair.disks_equal, 10, "equal disks")


@case("disk-full-at-the-standby", needs=("kvm", "root"))
def disk_full(t):
    """A sparse image on a file system that is too small: the twin is broken, the guest is not."""
    folder = t.path("small")
    os.mkdir(folder)
    assert os.system(f"mount -t tmpfs -o size=1m none {folder}") == 0
    t.cleanup(lambda: os.system(f"umount -l {folder}"))
    pair = Pair(t, cmdline="blocks=1024 depth=8 report=200", **GUEST)
    pair.add_standby(disk_path=f"{folder}/full.img")
    terms = pair.protect_begin(mode="interval")
    pair.board.pass_on(pair.standby.process, terms["streams"] + 1)
    why = pair.standby.process.wait_state("broken")["why"]
    assert "space" in why.lower(), why
    state = pair.primary.process.wait_state("lost", "unprotected")
    assert "space" in state["why"].lower(), state
    if state["state"] == "lost":
        pair.primary.process.ask("ownership", answer="confirmed")
        pair.primary.process.wait_state("unprotected")
    assert pair.promote_refused()
    for _ in range(3):
        pair.primary.console.wait_more("blk: done")


def boot_refused(side, *words):
    try:
        side.process.ask("boot")
    except Refused as e:
        for word in words:
            assert word in str(e), f"{word!r} is not in {str(e)!r}"
        return
    raise AssertionError(f"{side.name} boots on an image that is somebody else's")


@case("disk-of-another-vm")
def other_vm(t):
    """An image has one writer: a VM that runs, or a standby that keeps its copy there."""
    pair = Pair(t, cmdline="blocks=64 depth=8 report=200", **GUEST)
    pair.primary.console.wait("blk: done")
    other = pair.side("primary", disk_path=pair.primary.disk)
    boot_refused(other, pair.primary.disk, f"used by process {pair.primary.process.child.pid} ")
    pair.protect(mode="interval")
    thief = pair.side("primary", disk_path=pair.standby.disk)
    boot_refused(thief, pair.standby.disk, f"used by process {pair.standby.process.child.pid} ")
    pair.failover()
    boot_refused(thief, pair.primary.disk, f"used by process {pair.primary.process.child.pid} ")
    pair.primary.console.wait_more("blk: done")
    other.process.ask("boot")  # its first owner is dead
    other.console.wait("blk: done")


@case("disk-read-by-many")
def read_by_many(t):
    """Images that all only read are shared; nobody writes one meanwhile."""
    pair = Pair(t, guest="echo", nic=False, disk="1M", boot=False)
    readers = [pair.side("primary", disk_path=pair.primary.disk, disk_readonly=True)
               for _ in range(2)]
    for reader in readers:
        reader.process.ask("boot")
    boot_refused(pair.primary, "used by process")
    for reader in readers:
        reader.process.ask("quit")
        assert reader.process.child.wait() == 0
    pair.primary.process.ask("boot")
    late = pair.side("primary", disk_path=pair.primary.disk, disk_readonly=True)
    boot_refused(late, f"written by process {pair.primary.process.child.pid} ")
