# SPDX-License-Identifier: Apache-2.0
"""counter-server, counter-client, disk-check and guest-load over loopback, with planted faults."""
import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import threading

from common import TOOLS, FolderTest, eventually

BLOCK = 4096


class CounterTest(FolderTest):
    def setUp(self):
        super().setUp()
        self.disk = self.folder / "disk"
        self.log = self.folder / "log"

    def make_disk(self, blocks=64):
        self.disk.write_bytes(b"")
        os.truncate(self.disk, blocks * BLOCK)

    @contextlib.contextmanager
    def server(self):
        process = subprocess.Popen([TOOLS / "counter-server", "0", self.disk], text=True,
                                   stdout=subprocess.PIPE)
        try:
            words = process.stdout.readline().replace(",", "").split()
            yield int(words[2]), int(words[4])
        finally:
            process.kill()
            process.wait()
            process.stdout.close()

    def client(self, port, *options):
        done = subprocess.run([TOOLS / "counter-client", "-o", self.log, *options,
                               f"127.0.0.1:{port}"], capture_output=True, text=True, timeout=30)
        return done.returncode, json.loads(done.stdout)

    def check(self):
        done = subprocess.run([TOOLS / "disk-check", self.disk, self.log], capture_output=True,
                              text=True, timeout=30)
        return done.returncode, json.loads(done.stdout)

    def test_a_good_run_and_a_restart(self):
        self.make_disk()
        for first in (1, 21):
            with self.server() as (port, counter):
                self.assertEqual(counter, first - 1)
                code, verdict = self.client(port, "-n", "20")
            self.assertEqual((code, verdict["verdict"], verdict["replies"]), (0, "ok", 20))
            self.assertEqual((verdict["first_counter"], verdict["last_counter"]), (first, first + 19))
            code, agreed = self.check()
            self.assertEqual((code, agreed["present"], agreed["disk_last"]), (0, 20, first + 19))

    def test_the_counter_is_found_wherever_the_ring_stands(self):
        self.make_disk(16)
        for n in range(1, 30):
            with self.server() as (port, counter):
                self.assertEqual(counter, n - 1)
                self.client(port, "-n", "1")
            self.assertEqual(self.check()[0], 0)

    def test_a_ring_gone_round_is_no_loss(self):
        self.make_disk(16)
        with self.server() as (port, _):
            self.client(port, "-n", "20")
        code, agreed = self.check()
        self.assertEqual((code, agreed["present"], agreed["overwritten"]), (0, 7, 13))

    def test_a_disk_of_something_else_is_refused(self):
        self.disk.write_bytes(b"valuable" * BLOCK)
        done = subprocess.run([TOOLS / "counter-server", "0", self.disk], capture_output=True, timeout=10)
        self.assertEqual(done.returncode, 1)
        self.assertEqual(self.disk.read_bytes(), b"valuable" * BLOCK)

    def test_quit_ends_the_server(self):
        self.make_disk()
        process = subprocess.Popen([TOOLS / "counter-server", "0", self.disk], text=True,
                                   stdout=subprocess.PIPE)
        port = int(process.stdout.readline().replace(",", "").split()[2])
        with socket.create_connection(("127.0.0.1", port)) as sock:
            sock.sendall(b"QUIT\n")
            self.assertEqual(process.wait(10), 0)
        process.stdout.close()

    def test_sigterm_ends_the_client_with_a_verdict(self):
        self.make_disk()
        with self.server() as (port, _):
            client = subprocess.Popen([TOOLS / "counter-client", "-p", "5", "-o", self.log,
                                       f"127.0.0.1:{port}"], stdout=subprocess.PIPE)
            eventually(lambda: self.log.exists() and self.log.read_text().count("\n") > 5, "replies")
            client.send_signal(signal.SIGTERM)
            out, _ = client.communicate(timeout=20)
        self.assertEqual((client.returncode, json.loads(out)["verdict"]), (0, "ok"))

    # ---- disks that do not agree

    def agreed_disk(self):
        self.make_disk()
        with self.server() as (port, _):
            self.client(port, "-n", "10")
        self.assertEqual(self.check()[0], 0)

    def test_an_older_disk_is_caught(self):
        self.make_disk()
        with self.server() as (port, _):
            self.client(port, "-n", "5")
            older = self.disk.read_bytes()
            self.client(port, "-n", "5")
        self.disk.write_bytes(older)
        code, agreed = self.check()
        self.assertEqual((code, agreed["missing"]), (1, 5))

    def test_a_damaged_record_is_caught(self):
        self.agreed_disk()
        with open(self.disk, "r+b") as disk:
            disk.seek(BLOCK * (1 + 4) + 8)
            disk.write(b"\x63")
        self.assertEqual(self.check()[1]["missing"], 1)

    def test_a_disk_ahead_of_the_client_is_caught(self):
        self.agreed_disk()
        lines = self.log.read_text().splitlines(keepends=True)
        self.log.write_text("".join(lines[:-2]))
        code, agreed = self.check()
        self.assertEqual((code, agreed["disk_last"], agreed["told_last"]), (1, 10, 8))

    def test_one_unanswered_request_may_be_on_the_disk(self):
        self.agreed_disk()
        lines = self.log.read_text().splitlines(keepends=True)
        self.log.write_text("".join(lines[:-1]) + "10 123 - -\n")
        self.assertEqual(self.check()[0], 0)

    def test_records_of_other_requests_are_caught(self):
        self.agreed_disk()
        lines = self.log.read_text().splitlines(keepends=True)
        fields = lines[3].split()
        self.log.write_text("".join(lines[:3]) + " ".join(["77", *fields[1:]]) + "\n" + "".join(lines[4:]))
        self.assertEqual(self.check()[1]["wrong"], 1)

    # ---- servers that do not behave

    def faulty(self, answer, *options, patience=10):
        """answer(request number) -> bytes to send, or None to stop answering."""
        listener = socket.create_server(("127.0.0.1", 0))

        def serve():
            sock, _ = listener.accept()
            with contextlib.suppress(OSError), sock, sock.makefile("rb") as lines:
                for n, _ in enumerate(lines, 1):
                    reply = answer(n)
                    if reply == b"RESET":
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    if reply in (b"RESET", b"CLOSE"):
                        return
                    sock.sendall(reply)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        with listener:
            code, verdict = self.client(listener.getsockname()[1], "-n", "6", "-t", str(patience),
                                        *options)
        thread.join(10)
        self.assertEqual((code, verdict["verdict"]), (1, "bad"), verdict)
        return verdict

    def test_faults_of_order(self):
        for name, third in (("repeated", b"2 3\n"), ("rolled back", b"1 3\n"), ("skipped", b"4 3\n"),
                            ("reply to another request", b"3 2\n"), ("garbage", b"three 3\n")):
            with self.subTest(name):
                verdict = self.faulty(lambda n: third if n == 3 else b"%d %d\n" % (n, n))
                self.assertEqual((verdict["order"], verdict["connection"]), (name, "intact"))

    def test_a_reply_sent_twice(self):
        verdict = self.faulty(lambda n: b"%d %d\n" % (n, n) * (1 + (n == 3)))
        self.assertNotEqual(verdict["order"], "ok")

    def test_faults_of_the_connection(self):
        for name, third in (("reset", b"RESET"), ("closed", b"CLOSE"), ("silent", b"")):
            with self.subTest(name):
                verdict = self.faulty(lambda n: third if n == 3 else b"%d %d\n" % (n, n),
                                      patience=2 if name == "silent" else 10)
                self.assertEqual((verdict["connection"], verdict["replies"]), (name, 2))
                self.assertIn("3 ", self.log.read_text().splitlines()[-1])

    # ---- load

    def load(self, *arguments):
        process = subprocess.Popen([TOOLS / "guest-load", *map(str, arguments)],
                                   stdout=subprocess.PIPE)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def test_disk_load_leaves_the_servers_half_alone(self):
        self.disk.write_bytes(b"\xaa" * BLOCK * 16)
        self.load("disk", 1000, self.disk)
        eventually(lambda: b"\xaa" not in self.disk.read_bytes()[BLOCK * 8:][:64], "a write")
        eventually(lambda: self.disk.read_bytes()[-BLOCK:] != b"\xaa" * BLOCK, "the last block")
        self.assertEqual(self.disk.read_bytes()[:BLOCK * 8], b"\xaa" * BLOCK * 8)

    def test_loads_leave_marks_and_hold_none(self):
        self.disk.write_bytes(bytes(BLOCK * 16))
        self.load("disk", 1000, self.disk)
        eventually(lambda: self.disk.read_bytes().count(b"DISK-BLOCK-MARK_") == 8, "each block's")
        process = self.load("mem", 100000, 1)
        with open(f"/proc/{process.pid}/mem", "rb", buffering=0) as memory:
            low = eventually(lambda: self.load_region(process.pid, memory), "the region")
            memory.seek(low)
            self.assertGreaterEqual(memory.read(BLOCK * 8).count(b"MEMORY-MARK-16B_"), 8)
        self.assertFalse(b"-MARK" in (TOOLS / "guest-load").read_bytes(), "it holds one itself")

    @staticmethod
    def load_region(pid, memory):
        """The load's memory: 1 MiB whose page 8 begins and ends with the same stamp."""
        with open(f"/proc/{pid}/maps") as maps:
            for line in maps:
                low, high = (int(x, 16) for x in line.split()[0].split("-"))
                if high - low != 1 << 20 or not line.split()[1].startswith("rw"):
                    continue
                memory.seek(low + 8 * BLOCK)
                page = memory.read(BLOCK)
                if page[:8] == page[-8:] != bytes(8):
                    return low
        return None

    def test_memory_load_notices_damage(self):
        process = self.load("mem", 100000, 1)

        with open(f"/proc/{process.pid}/mem", "r+b", buffering=0) as memory:
            memory.seek(eventually(lambda: self.load_region(process.pid, memory), "the region")
                        + 7 * BLOCK)
            memory.write(b"\xff")
        self.assertEqual(process.wait(20), 1)
        self.assertIn(b"POLLUX-GUEST-MEMORY-DAMAGED page 7 ", process.stdout.read())
