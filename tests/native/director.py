# SPDX-License-Identifier: Apache-2.0
"""Directs pollux-vm processes as polluxd would (vm-process/vm-process.h)."""
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import threading
import time

from case import PATIENCE

PREAMBLE_SIZE = 32


class Refused(Exception):
    """The process answered {"ok": false}."""


class VmProcess:
    def __init__(self, program, log, name, env=None, arguments=()):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.name, self.sock, self.events, self.next_id = name, ours, [], 1
        self.log_path = log
        with open(log, "wb") as f:
            # The control socket is descriptor 3 of the child.
            self.child = subprocess.Popen(
                ["/bin/bash", "-c", f'exec "$0" --debug "$@" 3<&{theirs.fileno()}', program,
                 *arguments],
                stdin=subprocess.DEVNULL, stdout=f, stderr=f, pass_fds=(theirs.fileno(),),
                env=dict(os.environ, **(env or {})))
        theirs.close()

    def receive(self, timeout):
        """One message, or None."""
        if not select.select([self.sock], [], [], timeout)[0]:
            return None
        data = self.sock.recv(1 << 17)
        if not data:
            raise EOFError(f"{self.name} has closed its control socket")
        return json.loads(data)

    def send(self, what, fds=(), **values):
        """One request, without waiting; its number."""
        request = {"do": what, "id": self.next_id, **values}
        self.next_id += 1
        socket.send_fds(self.sock, [json.dumps(request).encode()], list(fds))
        return request["id"]

    @contextlib.contextmanager
    def standing_still(self):
        """What is sent meanwhile is all there when it goes on."""
        os.kill(self.child.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.child.pid, os.WSTOPPED)
        try:
            yield
        finally:
            os.kill(self.child.pid, signal.SIGCONT)

    def answer(self, number, what, timeout=PATIENCE):
        """The reply to a request; events that come meanwhile are kept."""
        deadline = time.monotonic() + timeout
        while True:
            message = self.receive(max(0, deadline - time.monotonic()))
            if message is None:
                raise TimeoutError(f"{self.name} did not answer {what} in {timeout} s")
            if "event" in message:
                self.events.append(message)
                continue
            assert message["reply"] == number, message
            if not message["ok"]:
                raise Refused(f"{self.name}: {what}: {message['error']}")
            return message

    def ask(self, what, fds=(), timeout=PATIENCE, **values):
        return self.answer(self.send(what, fds, **values), what, timeout)

    def wait_event(self, match, timeout=PATIENCE):
        """The first event, old or new, for which match(event) holds; it is taken."""
        deadline = time.monotonic() + timeout
        while True:
            for i, event in enumerate(self.events):
                if match(event):
                    return self.events.pop(i)
            message = self.receive(max(0, deadline - time.monotonic()))
            if message is None:
                raise TimeoutError(f"{self.name}: the event did not come in {timeout} s; "
                                   f"there were {self.events}")
            self.events.append(message)

    def wait_state(self, *states, timeout=PATIENCE):
        return self.wait_event(lambda e: e["event"] == "state" and e["state"] in states, timeout)

    def stats(self):
        return self.ask("stats")["stats"]

    def kill(self):
        self.child.kill()
        self.child.wait()

    def close(self, patience=PATIENCE):
        """Its exit code; -SIGKILL when it had to be made to end."""
        self.sock.close()
        try:
            self.child.wait(patience)
        except subprocess.TimeoutExpired:
            self.kill()
        return self.child.returncode


class Switchboard:
    """Stands in for the standby's polluxd: takes data connections and passes them on."""

    def __init__(self):
        self.pending, self.lock = [], threading.Lock()
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.port = self.sock.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                sock, _ = self.sock.accept()
            except OSError:
                return
            threading.Thread(target=self._preamble, args=(sock,), daemon=True).start()

    def _preamble(self, sock):
        preamble = b""
        while len(preamble) < PREAMBLE_SIZE:
            try:
                more = sock.recv(PREAMBLE_SIZE - len(preamble))
            except OSError:
                more = b""
            if not more:
                sock.close()
                return
            preamble += more
        with self.lock:
            self.pending.append((preamble, sock))

    def pass_on(self, standby, streams, timeout=PATIENCE):
        """Hands `streams` connections to the standby, which may refuse them."""
        deadline = time.monotonic() + timeout
        refusals = []
        while streams:
            with self.lock:
                ready, self.pending = self.pending, []
            for preamble, sock in ready:
                try:
                    standby.ask("stream", [sock.fileno()], stream=stream_of(preamble))
                except Refused as e:
                    refusals.append(str(e))
                sock.close()
                streams -= 1
            if time.monotonic() > deadline:
                raise TimeoutError(f"{streams} streams did not come")
            time.sleep(0.002)
        return refusals

    def close(self):
        self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()


def stream_of(preamble):
    """docs/protocol.md, "preamble"."""
    return int.from_bytes(preamble[12:14], "little")


def preamble_of(session, stream):
    return (b"POLLUX\r\n" + (1).to_bytes(2, "little") + (2).to_bytes(2, "little") +
            stream.to_bytes(2, "little") + bytes(2) + bytes.fromhex(session))
