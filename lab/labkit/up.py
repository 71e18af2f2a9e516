# SPDX-License-Identifier: Apache-2.0
"""Bringing a lab up and taking it down, from the user's side."""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

from . import accel, guest, host, wire
from .place import CHECKOUT, LabError, process_start_time

TOOLS = ("labd", "fence-lab", "labswitch")
BOOT_TIMEOUT = 180


def tools_folder(build):
    """The lab's programs, built when they are not there (a fresh checkout)."""
    tools = pathlib.Path(build) / "lab"
    if not all((tools / t).exists() for t in TOOLS):
        subprocess.run(["make", "-s", "-C", str(CHECKOUT), "-f", "lab/lab.mk", f"BUILD={build}",
                        "lab-tools"], check=True, stdout=sys.stderr)
    return tools


def need_programs():
    for program, package in (("qemu-system-x86_64", "qemu-system-x86"), ("dpkg", "dpkg")):
        if not shutil.which(program):
            raise LabError(f"{program} is not installed (package {package})")


def up(place, names, build, wanted_accel, say):
    host.specs(names)
    need_programs()
    pathlib.Path(build).mkdir(parents=True, exist_ok=True)
    tools = tools_folder(build)
    kernel, initrd = host.boot_files(tools, say)
    chosen, why = accel.decide(wanted_accel, kernel, initrd)
    say(f"emulating with {chosen} ({why})")
    config = {"hosts": names, "build": str(build), "tools": str(tools), "kernel": kernel,
              "initrd": initrd, "accel": chosen, "accel_why": why, "boot_timeout": BOOT_TIMEOUT,
              "guest": str(guest.folder(build, tools, say))}
    lock = place.create()
    try:
        # A copy, as the cache keeps only what the newest checkout boots.
        config["initrd"] = shutil.copyfile(initrd, str(place.path / "initramfs.cpio"))
        _supervise(place, config, lock)
        with place.connect("ctl.sock") as sock:
            wire.exchange(sock, "up", say, BOOT_TIMEOUT + 30)
    except BaseException:
        down(place)
        raise
    finally:
        os.close(lock)


def _supervise(place, config, lock):
    """The control socket is there before the supervisor is, so that nobody needs to wait for it."""
    control = place.listen("ctl.sock")
    with open(place.path / "supervisor.log", "ab") as log:
        child = subprocess.Popen(
            [sys.executable, str(CHECKOUT / "lab/lab"), "--dir", str(place.path), "supervise",
             str(control.fileno()), json.dumps(config)],
            cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            pass_fds=(control.fileno(), lock))
    place.supervisor_record(child.pid)
    control.close()


def down(place):
    """Ends the lab and removes its folder; a lab that is not there is down already."""
    pid = place.supervisor_pid()
    if pid:
        try:
            wire.request(place, "down", timeout=5)
        except (LabError, OSError):
            pass
        _wait_gone(place, pid)
    place.clear()


def _wait_gone(place, pid):
    for number, seconds in ((None, 10), (signal.SIGTERM, 5), (signal.SIGKILL, 5)):
        if number and place.supervisor_pid() == pid:
            os.kill(pid, number)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                pass
            if process_start_time(pid) is None or place.supervisor_pid() != pid:
                return
            time.sleep(0.02)
    raise LabError(f"the lab's supervisor, process {pid}, does not end")
