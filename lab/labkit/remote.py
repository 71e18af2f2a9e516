# SPDX-License-Identifier: Apache-2.0
"""Commands on a lab host: the client of the exec agent (see lab/frame.h)."""
import contextlib
import fcntl
import os
import selectors
import signal
import socket
import struct
import sys
import termios
import time
import tty

from . import wire
from .place import LabError

CHUNK = 65536
TIMED_OUT = 124
QUEUE_HIGH = 1 << 20


def frame(kind, payload=b""):
    return kind + struct.pack(">I", len(payload)) + payload


class Session:
    """One command, driven until it has ended. Input and output are file descriptors."""

    def __init__(self, sock, stdin=None, stdout=1, stderr=2):
        self._sock, self._stdin = sock, stdin
        self._sinks = {b"o": stdout, b"e": stderr}
        self._out, self._in = bytearray(), bytearray()
        self.code = None

    def send(self, kind, payload=b""):
        self._out += frame(kind, payload)

    def run(self, deadline=None):
        """Returns the exit code, or TIMED_OUT at the deadline (time.monotonic())."""
        self._sock.setblocking(False)
        # poll, not epoll: input may be a regular file.
        with selectors.PollSelector() as selector:
            while self.code is None:
                self._register(selector)
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return TIMED_OUT
                for key, events in selector.select(left):
                    self._ready(key.fileobj, events)
        return self.code

    def _register(self, selector):
        wanted = {self._sock: selectors.EVENT_READ | (selectors.EVENT_WRITE if self._out else 0)}
        if self._stdin is not None and len(self._out) < QUEUE_HIGH:
            wanted[self._stdin] = selectors.EVENT_READ
        registered = {key.fileobj: key.events for key in selector.get_map().values()}
        for fileobj in registered.keys() - wanted.keys():
            selector.unregister(fileobj)
        for fileobj, events in wanted.items():
            if fileobj not in registered:
                selector.register(fileobj, events)
            elif registered[fileobj] != events:
                selector.modify(fileobj, events)

    def _ready(self, fileobj, events):
        if fileobj is not self._sock:
            self._read_stdin()
            return
        if events & selectors.EVENT_WRITE:
            with contextlib.suppress(BlockingIOError):
                del self._out[:self._sock.send(self._out[:1 << 18])]
        if events & selectors.EVENT_READ:
            data = self._sock.recv(1 << 18)
            if not data:
                raise LabError("the host is gone")
            self._in += data
            self._frames()

    def _read_stdin(self):
        data = os.read(self._stdin, CHUNK)
        if data:
            self.send(b"I", data)
            return
        self.send(b"E")
        self._stdin = None

    def _frames(self):
        while len(self._in) >= 5:
            length = struct.unpack_from(">I", self._in, 1)[0]
            if len(self._in) < 5 + length:
                return
            kind, payload = bytes(self._in[:1]), bytes(self._in[5:5 + length])
            del self._in[:5 + length]
            if kind == b"x":
                self.code = struct.unpack(">I", payload)[0]
            elif kind in self._sinks:
                write_all(self._sinks[kind], payload)


def write_all(sink, data):
    if callable(sink):
        sink(data)
        return
    while data:
        data = data[os.write(sink, data):]


def _dial(place, name, status):
    if status.get("exec_path"):
        return place.connect(status["exec_path"])
    if not status["exec_port"]:
        raise LabError(f"{name} is {status['state']}")
    try:
        sock = socket.create_connection(("127.0.0.1", status["exec_port"]), 20)
    except OSError as err:
        raise LabError(f"{name}: {err}") from err
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def connect(place, name):
    status = wire.request(place, "host", host=name)
    if status["state"] == "frozen":
        raise LabError(f"{name} is frozen (`lab thaw {name}`)")
    sock = _dial(place, name, status)
    sock.sendall(frame(b"A", (place.share / ".token").read_bytes()))
    return sock


def execute(place, name, line, stdin=None, stdout=1, stderr=2, timeout=None):
    """Runs a shell line; stdin is a descriptor or None. Returns its exit code, or TIMED_OUT."""
    return execute_timed(place, name, line, stdin, stdout, stderr, timeout)[0]


def execute_timed(place, name, line, stdin=None, stdout=1, stderr=2, timeout=None):
    """The same, and whether it was cut off: a command may end with the code TIMED_OUT, too."""
    deadline = None if timeout is None else time.monotonic() + timeout
    with connect(place, name) as sock:
        session = Session(sock, stdin, stdout, stderr)
        session.send(b"C", line.encode())
        if stdin is None:
            session.send(b"E")
        code = guarded(name, session, deadline)
        return code, session.code is None


def guarded(name, session, deadline=None):
    try:
        return session.run(deadline)
    except (OSError, LabError) as err:
        raise LabError(f"{name}: connection lost while the command ran: {err}") from err


def window_size():
    try:
        packed = fcntl.ioctl(0, termios.TIOCGWINSZ, b"\0" * 8)
        rows, columns = struct.unpack("HHHH", packed)[:2]
    except OSError:
        rows, columns = 24, 80
    return struct.pack(">HH", rows, columns)


@contextlib.contextmanager
def raw_terminal():
    if not sys.stdin.isatty():
        yield
        return
    saved = termios.tcgetattr(0)
    try:
        tty.setraw(0)
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, saved)


def shell(place, name):
    term = os.environ.get("TERM", "linux")
    line = f"cd /root; TERM={term} PS1='{name}# ' exec sh -i"
    with connect(place, name) as sock, raw_terminal():
        session = Session(sock, 0)
        session.send(b"P", window_size() + line.encode())
        signal.signal(signal.SIGWINCH, lambda *_: session.send(b"W", window_size()))
        return guarded(name, session)
