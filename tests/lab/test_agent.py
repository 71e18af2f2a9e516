# SPDX-License-Identifier: Apache-2.0
"""labd and its client in labkit.remote, over loopback."""
import os
import signal
import socket
import struct
import subprocess
import time
import unittest.mock

from common import TOOLS, FolderTest, eventually
from labkit import remote
from labkit.place import LabError

TOKEN = b"0123456789abcdef"


class AgentTest(FolderTest):
    def setUp(self):
        super().setUp()
        token = self.folder / "token"
        token.write_bytes(TOKEN)
        out = subprocess.run([TOOLS / "labd", "127.0.0.1", "0", token], check=True,
                             stdout=subprocess.PIPE, text=True, timeout=20).stdout
        pid, self.port = map(int, out.split())
        self.addCleanup(os.kill, pid, signal.SIGKILL)

    def connect(self, token=TOKEN):
        sock = socket.create_connection(("127.0.0.1", self.port), 10)
        self.addCleanup(sock.close)
        sock.sendall(remote.frame(b"A", token))
        return sock

    def run_line(self, line, stdin=None, kind=b"C", deadline=None):
        out, err = bytearray(), bytearray()
        session = remote.Session(self.connect(), stdin, out.extend, err.extend)
        session.send(kind, line)
        if stdin is None and kind == b"C":
            session.send(b"E")
        return session.run(deadline), bytes(out), bytes(err)

    def test_exit_code_and_separate_outputs(self):
        self.assertEqual(self.run_line(b"echo o; echo e >&2; exit 42"), (42, b"o\n", b"e\n"))

    def test_death_by_signal(self):
        self.assertEqual(self.run_line(b"kill -KILL $$")[0], 128 + 9)

    def test_input_of_a_file_comes_back_whole(self):
        data = os.urandom(3 << 20)
        path = self.folder / "data"
        path.write_bytes(data)
        with open(path, "rb") as stdin:
            self.assertEqual(self.run_line(b"cat", stdin.fileno()), (0, data, b""))

    def test_a_command_that_takes_no_input_ends(self):
        with open("/dev/zero", "rb") as stdin:
            self.assertEqual(self.run_line(b"exit 3", stdin.fileno())[0], 3)

    def test_much_output_of_both_kinds(self):
        code, out, err = self.run_line(b"head -c 2000000 /dev/zero & head -c 2000000 /dev/zero >&2; wait")
        self.assertEqual((code, len(out), len(err)), (0, 2000000, 2000000))

    def test_terminal(self):
        code, out, _ = self.run_line(struct.pack(">HH", 33, 99) + b"stty size; test -t 0; exit $?",
                                     kind=b"P")
        self.assertEqual((code, out.split()), (0, [b"33", b"99"]))

    def test_wrong_token_runs_nothing(self):
        marker = self.folder / "ran"
        for token in (b"", b"0123456789abcdee", TOKEN[:-1], TOKEN + b"0"):
            session = remote.Session(self.connect(token))
            session.send(b"C", b"touch %s" % os.fsencode(marker))
            with self.assertRaises((LabError, OSError)):
                session.run()
        self.assertFalse(marker.exists())

    def test_malformed_frames_end_the_connection(self):
        for data in (b"C" + b"\xff" * 4, remote.frame(b"?"), remote.frame(b"P", b"\0")):
            sock = self.connect()
            sock.sendall(data)
            sock.settimeout(20)
            try:
                self.assertEqual(sock.recv(1), b"")
            except ConnectionResetError:
                pass

    @staticmethod
    def runs(pid):
        """Not gone, and no zombie, which has no program any more."""
        try:
            os.readlink(f"/proc/{pid}/exe")
        except FileNotFoundError:
            return False
        return True

    def test_a_lost_connection_kills_the_command_and_its_children(self):
        sock = self.connect()
        pids = self.folder / "pids"
        line = b"sleep 1000 & echo $! $$ > %s; wait" % os.fsencode(pids)
        sock.sendall(remote.frame(b"C", line))
        eventually(lambda: pids.exists() and pids.read_text().count(" "), "command runs")
        found = [int(p) for p in pids.read_text().split()]
        sock.close()
        eventually(lambda: not any(map(self.runs, found)), "both are gone")

    def test_timeout(self):
        code, _, _ = self.run_line(b"sleep 1000", deadline=time.monotonic() + 0.1)
        self.assertEqual(code, remote.TIMED_OUT)

    def test_a_command_may_end_with_the_code_of_a_timeout(self):
        def connect(*_):
            return socket.socket(fileno=self.connect().detach())
        with unittest.mock.patch.object(remote, "connect", connect):
            self.assertEqual(remote.execute_timed(None, "hosta", "exit 124", timeout=60),
                             (remote.TIMED_OUT, False))
            self.assertEqual(remote.execute_timed(None, "hosta", "sleep 1000", timeout=0.1),
                             (remote.TIMED_OUT, True))

    def test_a_background_process_does_not_hold_the_command(self):
        code, out, _ = self.run_line(b"setsid sleep 5 & echo done")
        self.assertEqual((code, out), (0, b"done\n"))
