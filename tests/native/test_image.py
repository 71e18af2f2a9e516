# SPDX-License-Identifier: Apache-2.0
"""Saved images: a VM goes into a file, and out of it again."""
import os
import re
import signal
import subprocess
import time

from case import case
from core import Core
from hosts import Hosts, goes_on, heard, passes, wait_until
from test_dump import dirtier_word


def runs_for_a_while(host):
    wait_until(lambda: max(passes(host.console()), default=0) >= 10, 20, "the guest runs")
    return max(heard(host))


@case("image-save-and-restore", compression="lz4")
@case("image-save-and-restore-raw", compression="none")
@case("image-save-and-restore-zlib", compression="zlib")
def save_and_restore(t, compression):
    """The guest goes on with the memory that it had; and a second time from the same host."""
    hosts = Hosts(t)
    image = t.path("demo.image")
    hosts.a.do("start", hosts.vm_file())
    for _ in range(2):
        before = runs_for_a_while(hosts.a)
        hosts.a.do("save", "demo", image, "--compression", compression, "--overwrite")
        assert hosts.a.vm()["state"] == "stopped" and not hosts.a.vm_pids()
        assert os.listdir(os.path.dirname(image)).count("demo.image.partial") == 0
        assert "restore" in hosts.a.vm()["why"]
        hosts.a.do("restore", image)
        assert hosts.a.vm()["state"] == "running"
        assert min(heard(hosts.a, 20)) > before, "it has begun anew"
        goes_on(hosts.a)
    hosts.a.refuses(3, "restore", image)


def stop_saving(host):
    """Whatever ended a save: the VM runs on, and there is no file."""
    host.wait("running")
    assert not [n for n in os.listdir(host.t.folder) if "image" in n], os.listdir(host.t.folder)
    goes_on(host)


@case("image-cannot-be-named")
@case("image-cannot-be-named-kept", options=("--keep-running",))
def cannot_be_named(t, options=()):
    hosts = Hosts(t, faults=("image.rename:1:5",))
    image = t.path("demo.image")
    hosts.a.do("start", hosts.vm_file())
    runs_for_a_while(hosts.a)
    assert "Input/output error" in hosts.a.refuses(1, "save", "demo", image, *options)
    stop_saving(hosts.a)
    hosts.a.do("save", "demo", image)
    hosts.a.do("restore", image)
    goes_on(hosts.a)


@case("image-encrypted")
def encrypted(t):
    """Nothing can be read without the key, and nothing is begun with another one."""
    hosts = Hosts(t)
    image, key, other = t.path("demo.image"), t.path("key"), t.path("other")
    for path, text in ((key, "00" * 31 + "01\n"), (other, "00" * 31 + "02\n")):
        with open(path, "w") as f:
            f.write(text)
    hosts.a.do("start", hosts.vm_file())
    before = runs_for_a_while(hosts.a)
    hosts.a.refuses(2, "save", "demo", image, "--key-file", t.path("demo.cfg"))
    hosts.a.do("save", "demo", image, "--key-file", key)
    with open(image, "rb") as f:
        assert b"demo" not in f.read()
    assert "--key-file" in hosts.a.refuses(3, "restore", image)
    assert "key" in hosts.a.refuses(3, "restore", image, "--key-file", other)
    assert hosts.a.vm()["state"] == "stopped" and hosts.a.vm()["term"] == 1
    hosts.a.do("restore", image, "--key-file", key)
    assert min(heard(hosts.a, 20)) > before
    goes_on(hosts.a)


@case("image-damaged")
def damaged(t):
    """Refused, with nothing half restored; the undamaged image is then still as good as before."""
    hosts = Hosts(t)
    image, bad = t.path("demo.image"), t.path("bad")
    hosts.a.do("start", hosts.vm_file(disk="demo.img"))
    runs_for_a_while(hosts.a)
    hosts.a.do("save", "demo", image, "--compression", "none")
    with open(image, "rb") as f:
        data = f.read()
    for name, wrong in (("cut", data[:-1000]), ("empty", b""), ("other", b"x" * 4096),
                        ("middle", data[:len(data) // 2] + b"\x55" * 64 + data[len(data) // 2 + 64:])):
        with open(bad, "wb") as f:
            f.write(wrong)
        p = hosts.a.pollux("restore", bad)
        assert p.returncode in (1, 2) and "image" in p.stderr, (name, p.returncode, p.stderr)
        hosts.a.wait("stopped")
        assert not hosts.a.vm_pids()
    hosts.a.do("restore", image)
    goes_on(hosts.a)


@case("image-disks-that-are-newer")
def newer(t):
    """A VM that has run since has other disks than its image remembers."""
    hosts = Hosts(t)
    image = t.path("demo.image")
    hosts.a.do("start", hosts.vm_file(disk="demo.img"))
    runs_for_a_while(hosts.a)
    assert "writable disk" in hosts.a.refuses(1, "save", "demo", image, "--keep-running")
    stop_saving(hosts.a)
    hosts.a.do("save", "demo", image)
    hosts.a.do("restore", image)
    assert "runs here already" in hosts.a.refuses(3, "restore", image)
    hosts.a.do("stop", "demo", "--force")
    assert "--force" in hosts.a.refuses(3, "restore", image)
    assert hosts.a.vm()["state"] == "stopped"
    hosts.a.do("restore", image, "--force")
    goes_on(hosts.a)
    hosts.a.do("stop", "demo", "--force")
    hosts.a.do("start", hosts.vm_file(disk="demo.img"))
    hosts.a.refuses(3, "save", "nobody", image)


@case("image-keep-running")
def keep_running(t):
    """Two lives of one guest, one after the other."""
    hosts = Hosts(t)
    image = t.path("demo.image")
    hosts.a.do("start", hosts.vm_file())
    before = runs_for_a_while(hosts.a)
    assert "runs on" in hosts.a.do("save", "demo", image, "--keep-running")
    goes_on(hosts.a)
    assert "there already" in hosts.a.refuses(3, "save", "demo", image)
    hosts.a.do("stop", "demo", "--force")
    hosts.a.do("restore", image)
    assert min(heard(hosts.a, 20)) > before
    goes_on(hosts.a)


@case("image-interrupted")
def interrupted(t):
    """Ctrl-C: within a moment the VM runs on."""
    hosts = Hosts(t)
    image = t.path("demo.image")
    hosts.a.do("start", hosts.vm_file(memory="1G", cmdline="pages=120000 rate=200000 report=1"))
    wait_until(lambda: len(passes(hosts.a.console())) > 1, 60, "the guest runs")
    p = hosts.a.pollux("save", "demo", image, "--compression", "zlib", background=True)
    wait_until(lambda: hosts.a.vm()["operation"]["what"] == "save", 20, "it is being saved")
    p.send_signal(signal.SIGINT)
    began = time.monotonic()
    out, err = p.communicate(timeout=30)
    if p.returncode == 0:
        return
    print(f"cancelled in {time.monotonic() - began:.2f} s")
    assert p.returncode == 1 and "runs on" in err, (p.returncode, err)
    stop_saving(hosts.a)


@case("image-no-room", needs=("kvm", "root"))
def no_room(t):
    """A file system that is full: the VM runs on, without a file."""
    hosts = Hosts(t)
    folder = t.path("small")
    os.mkdir(folder)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", folder], check=True)
    t.cleanup(lambda: subprocess.run(["umount", folder], check=True))
    hosts.a.do("start", hosts.vm_file())
    runs_for_a_while(hosts.a)
    message = hosts.a.refuses(1, "save", "demo", folder + "/image", "--compression", "none")
    assert "No space left" in message and "runs on" in message, message
    assert not os.listdir(folder)
    stop_saving(hosts.a)


@case("image-polluxd-restarts")
def restarts(t):
    """polluxd ends while a save is under way: the VM runs on, and can be saved again."""
    hosts = Hosts(t)
    image = t.path("demo.image")
    hosts.a.do("start", hosts.vm_file(memory="256M", cmdline="pages=50000 rate=0 report=1"))
    wait_until(lambda: passes(hosts.a.console()), 60, "the guest runs")
    p = hosts.a.pollux("save", "demo", image, "--compression", "zlib", background=True)
    wait_until(lambda: hosts.a.vm()["operation"]["what"] == "save", 20, "it is being saved")
    hosts.a.daemon.kill()
    hosts.a.daemon.wait()
    p.communicate(timeout=60)
    hosts.a.up()
    if os.path.exists(image):
        hosts.a.wait("stopped")
    else:
        hosts.a.wait("running")
        goes_on(hosts.a)
        hosts.a.do("save", "demo", image)
    hosts.a.do("restore", image)
    goes_on(hosts.a)


def saved_large(t, *options, wrap=()):
    """A guest whose memory has many chunks, saved."""
    hosts = Hosts(t, wrap=wrap)
    image = t.path("demo.image")
    hosts.a.do("start", hosts.vm_file(memory="64M", cmdline="pages=8000 rate=100000 report=1"))
    before = max(heard(hosts.a, 60, 3))
    hosts.a.do("save", "demo", image, "--compression", "none", *options)
    return hosts, image, before


@case("image-lazy")
@case("image-lazy-read-error", fault="image.read:60:5")
def lazy(t, fault=None):
    """It runs before its memory is there; a file that cannot be read for a moment holds it up."""
    hosts, image, before = saved_large(t)
    if fault:
        hosts.a.down()
        hosts.a.up(faults=fault)
        hosts.a.wait("stopped")
    hosts.a.do("restore", image, "--lazy")
    assert min(heard(hosts.a, 30)) > before
    wait_until(lambda: "memory read" in hosts.a.whats(), 30, "all of its memory is there")
    if fault:  # in the run through the file, or for a page that the guest waits for
        assert re.search("can be read again|waits for: cannot read", open(hosts.a.log).read())
    goes_on(hosts.a)
    hosts.a.do("save", "demo", image, "--overwrite")
    hosts.a.do("restore", image)
    goes_on(hosts.a)


NO_DEVICE = ("unshare", "-m", "sh", "-c",
             'if [ -e /dev/userfaultfd ]; then mount --bind /dev/null /dev/userfaultfd; fi; exec "$@"',
             "sh")


@case("image-lazy-by-capability", needs=("kvm", "root", "kept-userfaultfd"))
def lazy_by_capability(t):
    """The VM process has CAP_SYS_PTRACE, and nothing else to get a userfaultfd by, until it drops it."""
    hosts, image, before = saved_large(t, wrap=NO_DEVICE)
    hosts.a.do("restore", image, "--lazy")
    assert min(heard(hosts.a, 30)) > before
    wait_until(lambda: "memory read" in hosts.a.whats(), 30, "all of its memory is there")
    goes_on(hosts.a)


@case("image-lazy-impossible", needs=("kvm", "root", "kept-userfaultfd"))
def lazy_impossible(t):
    """Without that it is refused, and the image can be restored otherwise."""
    hosts, image, _ = saved_large(t, wrap=NO_DEVICE + ("setpriv", "--bounding-set", "-sys_ptrace",
                                                       "--inh-caps", "-sys_ptrace"))
    assert "without --lazy" in hosts.a.refuses(1, "restore", image, "--lazy")
    hosts.a.do("restore", image)
    goes_on(hosts.a)


def stats_after(host, boottime_ns):
    """Counted by the VM process later than that."""
    stats = [{}]

    def later():
        stats[0] = host.stats()
        return stats[0].get("at_ns", 0) > boottime_ns
    wait_until(later, 20, "the VM process counts")
    return stats[0]


@case("image-lazy-runs-first", engine="kvm")
@case("image-lazy-runs-first-soft", engine="soft", needs=())
def lazy_runs_first(t, engine):
    """While nobody reads ahead it runs on the few pages that it touches; in the end all are there,
    as they were."""
    used, fill = 200, 8000
    hosts = Hosts(t)
    a, image = hosts.a, t.path("demo.image")
    a.do("start", hosts.vm_file(engine=engine, memory="64M",
                                cmdline=f"pages={used} fill={fill} rate=20000 report=5"))
    before = max(heard(a, 60, 3))
    a.do("save", "demo", image)
    a.down()
    a.up(faults=",".join(f"image.ahead:{n}" for n in range(1, 17)))  # a second each
    a.wait("stopped")
    a.do("restore", image, "--lazy")
    assert min(heard(a)) > before
    goes_on(a)
    ran_at = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    stats = stats_after(a, ran_at)
    assert stats.get("image", {}).get("what") == "memory", stats
    missing = stats["image"]["pages_total"] - stats["image"]["pages"]
    print(f"it ran with {missing} pages still to be read")
    assert missing > fill / 2, stats["image"]
    assert " has been read from the image" in a.do("status", "demo")
    wait_until(lambda: "memory read" in a.whats(), 120, "all of its memory is there")
    wait_until(lambda: "from the image" not in a.do("status", "demo"), 20, "and status says so")
    a.do("dump-core", "demo", t.path("a.core"))
    core = Core(t.path("a.core"))
    for page in range(used, used + fill):
        assert core.word(dirtier_word(page)) == 1 << 32 | page, page
    goes_on(a)


@case("image-lazy-damaged")
def lazy_damaged(t):
    """What the guest needs is not to be had: it ends, and says why."""
    hosts, image, _ = saved_large(t)
    with open(image, "r+b") as f:
        f.seek(os.path.getsize(image) // 2)
        f.write(b"\x55" * 4096)
    hosts.a.pollux("restore", image, "--lazy")
    hosts.a.wait("stopped")
    assert "damaged" in hosts.a.vm()["why"] or "memory" in hosts.a.vm()["why"], hosts.a.vm()["why"]
    assert not hosts.a.vm_pids()
