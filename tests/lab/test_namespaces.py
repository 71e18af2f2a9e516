# SPDX-License-Identifier: Apache-2.0
"""Hosts that are namespaces: they see each other, die silently and wholly, are cut off and frozen,
and leave nothing. `lab` from the command line, with the real programs and no guest."""
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys

from common import TOOLS, FolderTest, eventually
from labkit import namespaces, up, wire
from labkit.place import LabError, Place, process_start_time

LAB = pathlib.Path(__file__).resolve().parents[2] / "lab" / "lab"


def why_not():
    try:
        namespaces.entrance()
    except LabError as err:
        return str(err)
    return None


def namespace_processes(inode):
    return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc")))
            if namespaces.process_namespace(pid) == inode]


class NamespaceLabTest(FolderTest):
    """One lab a test, of two hosts."""

    def setUp(self):
        super().setUp()
        reason = why_not()
        if reason:
            self.skipTest(reason)
        self.place = Place(self.folder / "lab")
        self.environment = {**os.environ, "POLLUX_LAB_DIR": str(self.place.path)}
        self.addCleanup(up.down, self.place)
        self.build = self.folder / "build"
        (self.build / "lab").mkdir(parents=True)
        for tool in TOOLS.iterdir():
            if tool.is_file():
                (self.build / "lab" / tool.name).symlink_to(tool)
        up.up(self.place, ["hosta", "hostb"], self.build, "namespaces", lambda _: None, with_guest=False)

    def lab(self, *arguments, code=0):
        done = subprocess.run([sys.executable, LAB, *arguments], env=self.environment, text=True,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=60)
        if code is not None:
            self.assertEqual(done.returncode, code, f"lab {arguments}: {done.stdout}")
        return done.stdout

    def on(self, host, line, code=0):
        return self.lab("exec", "-t", "20", host, "--", line, code=code)

    def status(self, host):
        return wire.request(self.place, "status")["hosts"][host]

    def processes(self, host):
        """All processes of a host, as this machine numbers them."""
        return namespace_processes(namespaces.child_namespace(self.status(host)["pid"]))

    def reaches(self, host="hosta", peer="hostb", patience=10):
        return "1 packets received" in self.on(host, f"ping -c 1 -W {patience} {peer}", code=None)

    def connection(self):
        """hosta holds a connection to hostb open and writes down what comes of it."""
        self.on("hostb", "nc -l -p 99 -e cat >/dev/null 2>&1 & "
                "until ss -ltn | grep -q :99; do sleep 0.05; done")
        self.on("hosta", "(sleep 1000 | nc hostb 99; echo ended >/tmp/ended) >/dev/null 2>&1 & sleep 0.2")
        eventually(lambda: "ESTAB" in self.on("hosta", "ss -tn"), "the connection is there")

    def test_hosts_see_each_other_and_nothing_else(self):
        self.assertTrue(self.reaches())
        self.assertTrue(self.reaches("hostb", "hosta-front"))
        self.assertEqual(self.on("hosta", "hostname").strip(), "hosta")
        inside = self.on("hosta", "ls /proc").split()
        self.assertNotIn(str(os.getpid()), inside)
        self.assertEqual(set(self.on("hosta", "ls /sys/class/net").split()), {"lo", "br0", "front0", "repl0"})
        self.on("hosta", "echo mine > /var/lib/x; echo mine > /run/x; touch /usr/x 2>/dev/null", code=1)
        self.on("hostb", "cat /var/lib/x", code=1)
        self.on("hosta", "echo ours > /lab/x")
        self.assertEqual(self.on("hostb", "cat /lab/x"), "ours\n")
        self.assertFalse(pathlib.Path("/run/x").exists())

    def test_killed_it_is_gone_wholly_and_says_nothing(self):
        self.connection()
        self.on("hostb", "setsid sleep 1001 & (setsid setsid sleep 1002 &) ; true")
        inode = namespaces.child_namespace(self.status("hostb")["pid"])
        before = namespace_processes(inode)
        self.assertGreaterEqual(len(before), 5)
        capture = pathlib.Path(self.lab("pcap", "repl", "on").strip())
        self.lab("kill", "hostb")
        self.assertEqual(namespace_processes(inode), [])
        self.assertFalse(self.reaches(patience=1))
        self.assertIn("ESTAB", self.on("hosta", "ss -tn"))
        self.on("hosta", "cat /tmp/ended", code=1)
        self.lab("pcap", "repl", "off")
        # Nothing of that connection, which was idle; IPv6 may have looked for neighbours before.
        self.assertNotIn(bytes.fromhex("525400770102" "0800"), [f[6:14] for f in frames(capture)])

    def test_what_outlives_a_host(self):
        self.on("hostb", "echo kept > /var/lib/kept; echo lost > /run/lost; echo lost > /tmp/lost")
        self.lab("kill", "hostb")
        self.lab("start", "hostb")
        self.assertEqual(self.on("hostb", "cat /var/lib/kept"), "kept\n")
        self.on("hostb", "cat /run/lost || cat /tmp/lost", code=1)
        eventually(self.reaches, "the host that returned is reached")

    def test_a_fence_is_confirmed_when_all_of_it_is_gone(self):
        self.on("hostb", "setsid sleep 1001 & true")
        inode = namespaces.child_namespace(self.status("hostb")["pid"])
        self.on("hosta", "printf 'action=status\\nplug=hostb\\n' | fence-lab")
        self.on("hosta", "printf 'action=off\\nplug=hostb\\n' | fence-lab")
        self.assertEqual(namespace_processes(inode), [])
        self.on("hosta", "fence-lab -o status -n hostb", code=2)

    def test_a_broken_fence_kills_nobody(self):
        self.lab("fence", "--broken", "hostb")
        self.on("hosta", "fence-lab -o off -n hostb", code=1)
        self.assertTrue(self.reaches())

    def test_cut_and_heal(self):
        self.assertTrue(self.reaches())
        self.lab("cut", "repl")
        self.assertFalse(self.reaches(patience=1))
        self.assertTrue(self.reaches("hosta", "hostb-front"))
        self.lab("heal")
        self.assertTrue(self.reaches())

    def test_frozen_nothing_runs_and_the_kernel_is_silent_too(self):
        self.on("hostb", "(while :; do date +%s%N > /var/beat; sleep 0.01; done) >/dev/null 2>&1 & true")
        beat = self.place.host("hostb") / "var" / "beat"
        eventually(beat.exists, "a beat")
        self.lab("freeze", "hostb")
        # One may have ended that its parent, stopped, has not waited for.
        self.assertEqual({state(p) for p in self.processes("hostb")} - {"Z"}, {"T"})
        frozen = beat.read_bytes()
        self.assertFalse(self.reaches(patience=1))
        self.assertEqual(beat.read_bytes(), frozen)
        self.lab("thaw", "hostb")
        eventually(lambda: beat.read_bytes() not in (frozen, b""), "it goes on")
        self.assertTrue(self.reaches())

    def left(self):
        """Whatever of the lab is still there: processes, its folder, mounts."""
        mark = str(self.place.path).encode()
        processes = []
        for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
            try:
                words = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                continue
            if mark in words and pid != os.getpid() and process_start_time(pid):
                processes.append(words)
        mounts = [m for m in pathlib.Path("/proc/self/mountinfo").read_bytes().splitlines() if mark in m]
        return processes + mounts + [p for p in [self.place.path] if p.exists()]

    def test_nothing_is_left(self):
        self.on("hosta", "setsid sleep 1001 & (setsid sleep 1002 &) ; true")
        inode = namespaces.child_namespace(self.status("hosta")["pid"])
        self.assertTrue(self.left())
        self.lab("down")
        self.assertEqual(self.left(), [])
        self.assertEqual(namespace_processes(inode), [])
        self.assertFalse([n for _, n in socket.if_nameindex() if re.match("repl|front", n)])

    def test_nothing_runs_after_the_supervisors_death(self):
        self.on("hosta", "setsid sleep 1001 & true")
        inode = namespaces.child_namespace(self.status("hosta")["pid"])
        os.kill(wire.request(self.place, "status")["pid"], signal.SIGKILL)
        eventually(lambda: not namespace_processes(inode), "all of the host gone")
        up.down(self.place)
        eventually(lambda: not self.left(), "nothing left")


def state(pid):
    text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    return text[text.rindex(")") + 2]


def frames(capture):
    """Of a capture in the classic pcap format."""
    data = capture.read_bytes()
    at, found = 24, []
    while at < len(data):
        length = int.from_bytes(data[at + 8:at + 12], "little")
        found.append(data[at + 16:at + 16 + length])
        at += 16 + length
    return found
