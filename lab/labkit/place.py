# SPDX-License-Identifier: Apache-2.0
"""Where a lab keeps its files, and how its processes are told from others."""
import contextlib
import fcntl
import json
import os
import pathlib
import shutil
import socket

MARKER = ".pollux-lab"
CHECKOUT = pathlib.Path(__file__).resolve().parents[2]


class LabError(Exception):
    """What failed, for the user; printed without a traceback."""


def default_dir():
    return os.environ.get("POLLUX_LAB_DIR") or f"/tmp/pollux-lab-{os.getuid()}"


def default_build():
    return pathlib.Path(os.environ.get("POLLUX_BUILD") or CHECKOUT / "build").resolve()


def cache_dir():
    cache = os.environ.get("POLLUX_LAB_CACHE")
    if not cache:
        home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        cache = os.path.join(home, "pollux-lab")
    path = pathlib.Path(cache)
    path.mkdir(parents=True, exist_ok=True)
    return path


def process_start_time(pid):
    """The kernel's start time of a process in clock ticks, or None: a pid alone may be reused."""
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text[text.rindex(")") + 2:].split()
    return None if fields[0] == "Z" else int(fields[19])


def _not_gone_already(_function, _path, error):
    """Two may clear a lab at once: `lab up` that fails and the `lab down` of an impatient user."""
    if not isinstance(error[1], FileNotFoundError):
        raise error[1]


class Place:
    """The folder of one lab."""

    def __init__(self, path):
        self.path = pathlib.Path(path).absolute()
        self.marker = self.path / MARKER
        self.share = self.path / "share"
        self.pidfile = self.path / "supervisor.json"

    def host(self, name):
        return self.path / "hosts" / name

    def create(self):
        """Makes the folder and takes its lock, which the supervisor then inherits."""
        if self.path.exists() and not self.marker.exists() and any(self.path.iterdir()):
            raise LabError(f"{self.path} is in use for something else (no {MARKER} in it)")
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(self.marker, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise LabError(f"a lab is up already in {self.path} (`lab down` ends it)") from None
        self.clear(keep_marker=True)
        for sub in ("hosts", "net", "share", "pcap"):
            (self.path / sub).mkdir()
        return lock

    def clear(self, keep_marker=False):
        """Removes what a lab left; never a folder that no lab made."""
        if not self.marker.exists():
            return
        with contextlib.suppress(FileNotFoundError):
            for entry in list(self.path.iterdir()):
                if entry == self.marker:
                    continue
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry, onerror=_not_gone_already)
                else:
                    entry.unlink(missing_ok=True)
            if not keep_marker:
                self.marker.unlink()
                self.path.rmdir()

    def supervisor_pid(self):
        """The pid of this lab's supervisor if that very process is alive."""
        try:
            record = json.loads(self.pidfile.read_text())
        except (OSError, ValueError):
            return None
        alive = process_start_time(record["pid"]) == record["start"]
        return record["pid"] if alive else None

    def supervisor_record(self, pid):
        self.pidfile.write_text(json.dumps({"pid": pid, "start": process_start_time(pid)}))

    def socket_address(self, name):
        """An address for a socket in the folder, however long the folder's own path is: the
        descriptor stays open with the process."""
        if not hasattr(self, "_fd"):
            self._fd = os.open(self.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return f"/proc/self/fd/{self._fd}/{name}"

    def listen(self, name):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        address = self.socket_address(name)
        if os.path.lexists(address):
            os.unlink(address)
        sock.bind(address)
        sock.listen(16)
        return sock

    def connect(self, name):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(self.socket_address(name))
        except OSError as err:
            sock.close()
            raise LabError(f"no lab is up in {self.path} (`lab up` starts one)") from err
        return sock
