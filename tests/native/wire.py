# SPDX-License-Identifier: Apache-2.0
"""What is outside of the VMs: the links between hosts, the network, and an observer on it."""
import itertools
import os
import random
import select
import socket
import struct
import threading
import time

from case import PATIENCE

GUEST_MAC = bytes.fromhex("525400000001")
CLIENT_MAC = bytes.fromhex("525400000002")
TYPE_ECHO, TYPE_RARP = b"\x88\xb5", b"\x80\x35"
FNV_PRIME = 0x100000001b3
PREAMBLE_SIZE, PREAMBLE_DATA = 32, 2
BURST = 64  # the stream that measures a link
REPLY_PATIENCE = 0.25  # seconds after which a request no longer counts as under way
GAP_CHOICES_MAX = 200000
QUIET_LOOKS = 30  # one each 10 ms; requests are made more often


class Proxy:
    """A TCP proxy to `port`. `forward` is from the primary to the standby, `back` the other way.

    A direction that is held passes nothing on and closes nothing: to the ends it is silence.
    With a quota it is held after so many bytes, and nothing more is read. A connection for one of
    the streams `mute` is taken and goes nowhere. After one for the stream `last` nothing is taken
    any more, until hear(): who connects gets no answer.
    """

    def __init__(self, port):
        self.target, self.socks, self.delay = port, [], {"forward": 0.0, "back": 0.0}
        self.harm, self.quota = set(), {"forward": None, "back": None}
        self.mute, self.muted, self.last = (), threading.Event(), None
        self.hears, self.queue = threading.Event(), []
        self.hears.set()
        self.open = {"forward": threading.Event(), "back": threading.Event()}
        self.release()
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 17)
        self.port = self.sock.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _stream(self, near):
        """As its preamble says (docs/protocol.md); None: it is for no stream."""
        try:
            head = near.recv(PREAMBLE_SIZE, socket.MSG_PEEK | socket.MSG_WAITALL)
        except OSError:
            return None
        if len(head) < PREAMBLE_SIZE:
            return None
        kind, stream = struct.unpack_from("<HH", head, 10)
        return stream if kind == PREAMBLE_DATA else None

    def _deafen(self):
        """The queue of connections that nobody accepts is full: the kernel drops who comes next."""
        self.hears.clear()
        self.sock.listen(0)
        while True:
            s = socket.socket()
            s.setblocking(False)
            s.connect_ex(self.sock.getsockname())
            if not select.select([], [s], [], 0.2)[1]:
                s.close()
                return
            self.queue.append(s)

    def hear(self):
        for s in self.queue:
            s.close()
        self.queue.clear()
        self.sock.listen()
        self.hears.set()

    def calls(self):
        """Whether somebody connects, and has no answer yet."""
        with open("/proc/net/tcp") as f:
            fields = [line.split()[2:4] for line in f]
        return [f"0100007F:{self.port:04X}", "02"] in fields  # SYN_SENT

    def _serve(self):
        while True:
            self.hears.wait()
            try:
                near, _ = self.sock.accept()
            except OSError:
                return
            stream = self._stream(near) if self.mute or self.last is not None else None
            if stream in self.mute:
                self.socks.append(near)
                self.muted.set()
                continue
            if self.last is not None and stream == self.last:
                self._deafen()
            try:
                far = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                near.close()
                continue
            self.socks += [near, far]
            for a, b, way in ((near, far, "forward"), (far, near, "back")):
                a.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._pump, args=(a, b, way), daemon=True).start()

    def _pump(self, a, b, way):
        """A piece of data waits its delay after it came, not after the one before it left."""
        line, more = [], threading.Condition()

        def write():
            while True:
                with more:
                    more.wait_for(lambda: line)
                    due, data = line.pop(0)
                time.sleep(max(0, due - time.monotonic()))
                self.open[way].wait()
                try:
                    if data:
                        b.sendall(data)
                    else:
                        b.shutdown(socket.SHUT_WR)
                except OSError:
                    return
                if not data:
                    return

        threading.Thread(target=write, daemon=True).start()
        data = b"-"
        while data:
            if self.quota[way] is not None:
                self.open[way].wait()  # the sender shall feel it
            try:
                data = a.recv(1 << 16)
            except OSError:
                data = b""
            if way in self.harm and data:
                self.harm.discard(way)
                data = data[:-1] + bytes([data[-1] ^ 1])
            if self.quota[way] is not None:
                self.quota[way] -= len(data)
                if self.quota[way] < 0:
                    self.hold(way)
            with more:
                line.append((time.monotonic() + self.delay[way], data))
                more.notify()

    def hold(self, *ways):
        for way in ways or ("forward", "back"):
            self.open[way].clear()

    def release(self, *ways):
        for way in ways or ("forward", "back"):
            self.open[way].set()

    def damage(self, way):
        """One bit of the next data in that direction changes."""
        self.harm.add(way)

    def reset(self):
        """Every connection ends at once, with a RST."""
        for s in self.socks:
            try:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self):
        self.sock.shutdown(socket.SHUT_RDWR)
        self.hears.set()
        self.sock.close()
        self.release()
        self.reset()


class Frames:
    """The far end of a NIC of kind stream: frames with a big-endian u32 length before each."""

    def __init__(self, path):
        self.path, self.sock, self.data = path, None, b""
        self.server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.server.bind(path)
        self.server.listen(1)

    def accept(self, timeout=PATIENCE):
        self.server.settimeout(timeout)
        self.sock, _ = self.server.accept()

    def send(self, frame):
        """False when the process is gone."""
        try:
            self.sock.sendall(len(frame).to_bytes(4, "big") + frame)
            return True
        except (OSError, AttributeError):
            return False

    def take(self):
        """A frame that has come whole already, or None."""
        if len(self.data) < 4:
            return None
        n = int.from_bytes(self.data[:4], "big")
        if len(self.data) < 4 + n:
            return None
        frame, self.data = self.data[4:4 + n], self.data[4 + n:]
        return frame

    def fill(self, timeout):
        """Read what is there; False when that was nothing. At its end the socket goes."""
        if not select.select([self.sock], [], [], max(0, timeout))[0]:
            return False
        try:
            data = self.sock.recv(1 << 16)
        except OSError:
            data = b""
        self.data += data
        if not data:
            self.sock.close()
            self.sock = None
        return bool(data)

    def close(self):
        if self.sock:
            self.sock.close()
        self.server.close()
        os.unlink(self.path)


def hash_add(state, payload):
    for byte in payload:
        state = ((state ^ byte) * FNV_PRIME) & 0xffffffffffffffff
    return state


class Contradiction(AssertionError):
    """The outside has seen something that cannot come from one machine."""


class Observer:
    """Sends frames to an echo guest through a switch, and holds what it says to one history.

    A reply carries the guest's count and hash of all frames so far. From one reply to the
    next the count may only grow, and the hash must follow from the one before: frames that
    were answered are in the history, in order and once. Those that were not (their answer was
    lost with a host) may or may not be: one choice of them must give the hash.
    The switch sends to the port on which the guest's MAC was last seen.
    """

    def __init__(self, random_seed=1):
        self.ports, self.active, self.speakers, self.wake = [], None, set(), os.pipe()
        self.late, self.unseen = set(), {}  # count -> hash, of replies that never came
        self.chance, self.lock = random.Random(random_seed), threading.RLock()
        self.sequence, self.count, self.hash, self.answered = 0, 0, 0, 0
        self.sent = {}  # sequence -> (payload, time), since the last reply
        self.replies, self.delays, self.problem, self.announced = 0, [], None, {}
        self.reply_times = []
        self.window, self.pace, self.next_at, self.over, self.thread = 0, 0.0, 0.0, False, None

    def add_port(self, frames):
        """Nothing may come from it until it is admitted."""
        with self.lock:
            self.ports.append(frames)

    def admit(self, frames):
        """The vm at this port owns the guest, from now on."""
        with self.lock:
            self.active = self.active or frames
            self.speakers.add(frames)

    def retire(self, frames, late=False):
        """It owns it no longer: what has left so far counts, nothing may come any more.
        With `late`, replies may that were acknowledged before and are not yet seen."""
        with self.lock:
            while frames.sock and self._port(frames, 0.02):
                pass
            self.speakers.discard(frames)
            if late:
                self.late.add(frames)

    # ---- one frame at a time -----------------------------------------------------------

    def request(self):
        with self.lock:
            self.sequence += 1
            payload = struct.pack(">QQ", self.sequence, self.chance.getrandbits(64))
            payload += bytes(self.chance.randrange(30))
            self.sent[self.sequence] = (payload, time.monotonic())
            self.active.send(GUEST_MAC + CLIENT_MAC + TYPE_ECHO + payload)

    def _gap_search(self, payload, hash_now, missing, candidates):
        choices = itertools.combinations(candidates, missing)
        for choice in itertools.islice(choices, GAP_CHOICES_MAX):
            state, states = self.hash, []
            for sequence in choice:
                state = hash_add(state, self.sent[sequence][0])
                states.append(state)
            if hash_add(state, payload) == hash_now:
                for i, state in enumerate(states):
                    self.unseen[self.count + 1 + i] = state
                return True
        return False

    def _reply(self, frame):
        count, hash_now = struct.unpack(">QQ", frame[14:30])
        payload = frame[30:]
        sequence = int.from_bytes(payload[:8], "big")
        if sequence not in self.sent or self.sent[sequence][0] != payload:
            raise Contradiction(f"a reply to request {sequence}, which was not under way; the last "
                                f"one answered was {self.answered}")
        if count <= self.count:
            raise Contradiction(f"the guest's count went from {self.count} to {count} at "
                                f"request {sequence}")
        earlier = [s for s in self.sent if s < sequence]
        missing = count - self.count - 1
        if not self._gap_search(payload, hash_now, missing, earlier):
            raise Contradiction(
                f"request {sequence}: count {self.count} -> {count} with {len(earlier)} "
                f"unanswered requests between; no choice of them gives hash {hash_now:x}")
        now = time.monotonic()
        self.delays.append(now - self.sent[sequence][1])
        self.reply_times.append(now)
        self.count, self.hash, self.answered = count, hash_now, sequence
        self.replies += 1
        self.sent = {s: v for s, v in self.sent.items() if s > sequence}

    def _late(self, frame):
        """Of an epoch that the twin has too: it must be in the history already."""
        count, hash_now = struct.unpack(">QQ", frame[14:30])
        if self.unseen.pop(count, None) != hash_now:
            raise Contradiction(f"a late reply, count {count}: the twin's history is another")

    def _frame(self, port, frame):
        if port in self.late and frame[12:14] == TYPE_ECHO:
            self._late(frame)
            return
        if port not in self.speakers:
            raise Contradiction(f"a frame came from {port.path}, which does not own the guest: "
                                f"{frame.hex()}")
        if frame[6:12] == GUEST_MAC:
            self.active = port
        if frame[12:14] == TYPE_ECHO:
            self._reply(frame)
        elif frame[6:12] == GUEST_MAC:
            self.announced.setdefault(port.path, time.monotonic())

    # ---- all the time --------------------------------------------------------------------

    def start(self):
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def load(self, window, pace=0.0):
        """Keep `window` requests under way, with a pause of `pace` seconds after each."""
        self.window, self.pace = window, pace
        os.write(self.wake[1], b"-")

    def under_way(self):
        now = time.monotonic()
        return sum(now - at < REPLY_PATIENCE for _, at in self.sent.values())

    def _offer(self):
        with self.lock:
            if len(self.sent) > 400:  # an outage: nothing older can be told from what is newer
                return
            while self.under_way() < self.window and time.monotonic() >= self.next_at:
                self.request()
                self.next_at = time.monotonic() + self.pace

    def _run(self):
        try:
            while not self.over:
                self._offer()
                with self.lock:
                    socks = {p.sock: p for p in self.ports if p.sock}
                ready, _, _ = select.select([*socks, self.wake[0]], [], [], 0.01)
                if self.wake[0] in ready:
                    os.read(self.wake[0], 100)
                for sock in ready:
                    if sock in socks:
                        self._port(socks[sock])
        except Contradiction as e:
            self.problem = e
        except Exception as e:  # shown by check(), in the thread that asks
            self.problem = e

    def _port(self, port, timeout=0):
        """Take what has come; False when that was nothing."""
        with self.lock:
            came = port.sock and port.fill(timeout)
            frame = port.take()
            while frame:
                self._frame(port, frame)
                frame = port.take()
            return came

    # ---- what the tests ask -----------------------------------------------------------------

    def check(self):
        if self.problem:
            raise self.problem

    def wait_replies(self, more=1, timeout=PATIENCE):
        """Until so many more replies have come."""
        want, deadline = self.replies + more, time.monotonic() + timeout
        while self.replies < want:
            self.check()
            if time.monotonic() > deadline:
                raise TimeoutError(f"{want - self.replies} of {more} replies did not come in "
                                   f"{timeout} s; {len(self.sent)} requests are unanswered")
            time.sleep(0.002)
        self.check()

    def expect_silence(self, seconds):
        before, deadline = self.replies, time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.check()
            assert self.replies == before, \
                f"{self.replies - before} replies came out that had to be held"
            time.sleep(0.01)

    def drain(self, timeout=10):
        """What had left before it was held may still be on its way: until nothing more comes. Looks
        are counted, and not seconds: in a stall of this process the thread that reads stands too."""
        deadline, before, quiet = time.monotonic() + timeout, self.replies, 0
        while quiet < QUIET_LOOKS:
            self.check()
            assert time.monotonic() < deadline, \
                f"{timeout} s after it had to be held output still comes"
            time.sleep(0.01)
            quiet = quiet + 1 if self.replies == before else 0
            before = self.replies

    def settle(self, timeout=20):
        """End the load, and let all that was asked be answered."""
        with self.lock:
            self.window = 0
        deadline = time.monotonic() + timeout
        while self.sent:
            self.check()
            assert time.monotonic() < deadline, \
                f"{len(self.sent)} requests were not answered in {timeout} s"
            time.sleep(0.01)
        self.check()

    def close(self):
        self.over = True
        os.write(self.wake[1], b"-")
        if self.thread:
            self.thread.join()
        for fd in self.wake:
            os.close(fd)
