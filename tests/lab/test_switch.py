# SPDX-License-Identifier: Apache-2.0
"""labswitch with made-up hosts at its ports."""
import socket
import struct
import subprocess

from common import TOOLS, FolderTest, readable

QUIET = 0.05  # long enough for a frame that should not come; a late one makes no test fail


def mac(n):
    return bytes((0x52, 0x54, 0, 0, 0, n))


def ether(to, source, payload=b"x" * 46):
    return (b"\xff" * 6 if to is None else mac(to)) + mac(source) + b"\x08\x00" + payload


class SwitchTest(FolderTest):
    def setUp(self):
        super().setUp()
        self.process = subprocess.Popen([TOOLS / "labswitch"], cwd=self.folder, text=True, bufsize=1,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.addCleanup(self.stop)
        self.ports = {}
        for n, name in enumerate(("a", "b", "c"), 1):
            self.say(f"port net {name} {name}.sw {name}.vm")
            self.host(name)
        for name in "abc":
            self.send(name, ether(None, ord(name) - 96))
            for other in set("abc") - {name}:
                self.receive(other)

    def stop(self):
        self.process.stdin.close()
        self.assertEqual(self.process.wait(10), 0)
        self.process.stdout.close()
        for sock in self.ports.values():
            sock.close()

    def host(self, name):
        path = self.folder / f"{name}.vm"
        path.unlink(missing_ok=True)
        if name in self.ports:
            self.ports[name].close()
        self.ports[name] = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.ports[name].bind(str(path))

    def say(self, line):
        self.process.stdin.write(line + "\n")
        answer = self.process.stdout.readline()
        self.assertTrue(answer.startswith("ok"), f"{line}: {answer}")
        return answer

    def send(self, name, frame):
        self.ports[name].sendto(frame, str(self.folder / f"{name}.sw"))

    def receive(self, name):
        self.assertTrue(readable(self.ports[name]), f"nothing arrived at {name}")
        return self.ports[name].recv(70000)

    def nothing(self, name):
        self.assertFalse(readable(self.ports[name], QUIET), f"a frame arrived at {name}")

    def test_a_learnt_address_gets_its_frames_alone(self):
        frame = ether(2, 1, b"only b")
        self.send("a", frame)
        self.assertEqual(self.receive("b"), frame)
        self.nothing("c")

    def test_broadcast_reaches_all_others(self):
        self.send("a", ether(None, 1))
        self.receive("b")
        self.receive("c")
        self.nothing("a")

    def test_an_address_that_moved_is_followed(self):
        self.send("c", ether(None, 2))
        self.receive("a")
        self.receive("b")
        self.send("a", ether(2, 1))
        self.receive("c")
        self.nothing("b")

    def test_jumbo_frames_pass_whole(self):
        frame = ether(2, 1, bytes(range(256)) * 234)
        self.send("a", frame)
        self.assertEqual(self.receive("b"), frame)

    def test_cut_of_one_direction(self):
        self.say("cut net a b")
        self.send("a", ether(2, 1))
        self.nothing("b")
        self.send("b", ether(1, 2))
        self.receive("a")
        self.send("a", ether(3, 1))
        self.receive("c")

    def test_cut_of_a_host_and_heal(self):
        self.say("cut * a *")
        self.say("cut * * a")
        self.send("a", ether(None, 1))
        self.nothing("b")
        self.send("b", ether(1, 2))
        self.nothing("a")
        self.send("b", ether(3, 2))
        self.receive("c")
        self.say("heal * * *")
        self.send("a", ether(2, 1))
        self.receive("b")

    def test_a_cut_host_does_not_draw_an_address_to_itself(self):
        self.say("cut net a *")
        self.send("a", ether(None, 2))
        self.say("stats")
        self.send("c", ether(2, 3))
        self.receive("b")

    def test_frames_under_way_are_lost_with_the_link(self):
        self.say("delay net b 60000000")
        self.send("a", ether(2, 1))
        while "b received=1 sent=2 dropped=0 queued=60;" not in self.say("stats"):
            pass
        self.say("cut net a b")
        self.say("delay net b 0")
        self.nothing("b")

    def test_delay_keeps_the_order(self):
        self.say("delay net b 20000")
        frames = [ether(2, 1, b"%d" % i) for i in range(10)]
        for frame in frames:
            self.send("a", frame)
        self.assertEqual([self.receive("b") for _ in frames], frames)

    def test_loss(self):
        self.say("loss net b 1000")
        self.send("a", ether(None, 1))
        self.receive("c")
        self.nothing("b")
        self.say("loss net b 0")
        self.send("a", ether(2, 1))
        self.receive("b")

    def test_a_host_dies_and_returns(self):
        self.ports["b"].close()
        self.send("a", ether(2, 1, b"into the void"))
        self.say("stats")
        self.host("b")
        while not readable(self.ports["b"], QUIET):
            self.send("a", ether(2, 1, b"again"))
        self.assertTrue(self.receive("b").endswith(b"again"))
        self.send("b", ether(1, 2))
        self.receive("a")

    def test_a_host_that_does_not_read_holds_up_nobody(self):
        for i in range(200):
            self.send("a", ether(2, 1, b"%200d" % i))
            self.say("stats")
        self.send("a", ether(3, 1))
        self.receive("c")
        got = [int(self.receive("b")[14:]) for _ in range(200)]
        self.assertEqual(got, list(range(200)))

    def test_pcap_holds_what_hosts_sent_also_when_cut(self):
        path = self.folder / "net.pcap"
        self.say(f"pcap net {path}")
        self.say("cut net a b")
        frames = [ether(2, 1, b"swallowed"), ether(3, 1, b"seen")]
        for frame in frames:
            self.send("a", frame)
        self.receive("c")
        self.say("pcap net off")
        data = path.read_bytes()
        self.assertEqual(struct.unpack_from("<I", data)[0], 0xa1b23c4d)
        self.assertEqual(struct.unpack_from("<I", data, 20)[0], 1)
        at, seen = 24, []
        while at < len(data):
            length = struct.unpack_from("<I", data, at + 8)[0]
            seen.append(data[at + 16:at + 16 + length])
            at += 16 + length
        self.assertEqual(seen, frames)

    def test_unknown_names_and_commands_are_refused(self):
        for line in ("cut net nobody a", "cut other * *", "fly net", "delay net b -1",
                     "delay net b x", "pcap net /nonexistent/file", "port net d"):
            self.process.stdin.write(line + "\n")
            self.assertTrue(self.process.stdout.readline().startswith("error"), line)
