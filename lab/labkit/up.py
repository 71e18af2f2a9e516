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

from . import accel, guest, host, namespaces, wire
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


def end_once():
    """SIGTERM ends the program as an exception, as Ctrl-C does, and what comes after the first of
    either does not disturb the cleaning up."""
    def end(number, _frame):
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_IGN)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + number)

    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, end)


def need_programs():
    for program, package in (("qemu-system-x86_64", "qemu-system-x86"), ("dpkg", "dpkg")):
        if not shutil.which(program):
            raise LabError(f"{program} is not installed (package {package})")


def up(place, names, build, wanted, say, with_guest=True):
    """wanted: auto, kvm or tcg, which are what emulates the hosts, or namespaces."""
    host.specs(names)
    build = pathlib.Path(build)
    build.mkdir(parents=True, exist_ok=True)
    tools = tools_folder(build)
    config = {"hosts": names, "build": str(build), "tools": str(tools),
              "boot_timeout": BOOT_TIMEOUT}
    made = _namespaces if wanted == "namespaces" else _emulators
    entrance = made(config, tools, wanted, say)
    if with_guest:
        config["guest"] = str(guest.folder(build, tools, say))
    lock = place.create()
    try:
        if "initrd" in config:
            # A copy, as the cache keeps only what the newest checkout boots.
            config["initrd"] = shutil.copyfile(config["initrd"],
                                               str(place.path / "initramfs.cpio"))
        _supervise(place, entrance, config, lock)
        with place.connect("ctl.sock") as sock:
            wire.exchange(sock, "up", say, BOOT_TIMEOUT + 30)
    except BaseException:
        down(place)
        raise
    finally:
        os.close(lock)


def _emulators(config, tools, wanted, say):
    need_programs()
    config["kernel"], config["initrd"] = host.boot_files(tools, say)
    config["accel"], config["accel_why"] = accel.decide(wanted, config["kernel"], config["initrd"])
    say(f"emulating with {config['accel']} ({config['accel_why']})")
    return []


def _namespaces(config, _tools, wanted, say):
    """Returns what the supervisor must be run by."""
    entrance, words = namespaces.entrance()
    config["accel"], config["accel_why"] = wanted, words
    say(f"hosts are namespaces, made {words}")
    return entrance


def _supervise(place, entrance, config, lock):
    """The control socket is there before the supervisor is, so that nobody needs to wait for it."""
    control = place.listen("ctl.sock")
    with open(place.path / "supervisor.log", "ab") as log:
        child = subprocess.Popen(
            [*entrance, sys.executable, str(CHECKOUT / "lab/lab"), "--dir", str(place.path), "supervise",
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
