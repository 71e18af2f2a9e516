# SPDX-License-Identifier: Apache-2.0
"""`lab` from the command line, with a made-up emulator and kernel packages: life and death of a
lab, fencing, and that nothing stays behind."""
import json
import os
import pathlib
import signal
import subprocess
import sys

from common import TOOLS, FolderTest, eventually
from labkit import guest, host
from labkit.place import process_start_time

LAB = pathlib.Path(__file__).resolve().parents[2] / "lab" / "lab"
FAKE = pathlib.Path(__file__).resolve().parent / "fake_emulator.py"


class LabTest(FolderTest):
    def setUp(self):
        super().setUp()
        self.lab = self.folder / "lab"
        self.make_programs(self.folder / "bin")
        build = self.folder / "build"
        build.mkdir()
        (build / "lab").symlink_to(TOOLS, target_is_directory=True)
        self.environment = {
            "PATH": f"{self.folder}/bin:{os.environ['PATH']}", "HOME": str(self.folder),
            "POLLUX_LAB_CACHE": str(self.make_cache()), "POLLUX_LAB_DIR": str(self.lab),
            "POLLUX_BUILD": str(self.own_build(build))}
        self.addCleanup(self.run_lab, "down")

    def own_build(self, build):
        """A build folder of the test's own, as the guest's images are written into it."""
        (build / "lab").unlink()
        (build / "lab").mkdir()
        for tool in TOOLS.iterdir():
            if tool.is_file():
                (build / "lab" / tool.name).symlink_to(tool)
        return build

    def make_programs(self, folder):
        folder.mkdir()
        scripts = {"qemu-system-x86_64": f"exec {sys.executable} {FAKE} \"$@\"",
                   "apt-cache": "case $2 in *cloud*) c=cloud- ;; esac\n"
                                "echo \"  Depends: linux-image-9.9-1-${c}amd64\"",
                   "strip": "exit 1"}
        for name, text in scripts.items():
            (folder / name).write_text(f"#!/bin/sh\n{text}\n")
            (folder / name).chmod(0o755)

    def make_cache(self):
        cache = self.folder / "cache"
        names = set(host.BOOT_MODULES + host.LATER_MODULES + guest.MODULES)
        for package in ("linux-image-9.9-1-amd64", "linux-image-9.9-1-cloud-amd64"):
            modules = cache / package / "modules" / "kernel"
            modules.mkdir(parents=True)
            for name in names:
                (modules / f"{name}.ko").write_bytes(b"\0depends=\0")
            (modules.parent / "modules.builtin").write_text("")
            for image in ("vmlinux", "vmlinuz"):
                (cache / package / image).write_text(image)
        return cache

    def start_lab(self, *arguments, **environment):
        return subprocess.Popen([sys.executable, LAB, *arguments], text=True, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, env={**self.environment, **environment})

    def run_lab(self, *arguments, code=0, **environment):
        process = self.start_lab(*arguments, **environment)
        out, _ = process.communicate(timeout=60)
        self.assertEqual(process.returncode, code, f"lab {arguments}: {out}")
        return out

    def up(self):
        self.run_lab("up", "--hosts", "hosta,hostb", "--accel", "tcg")

    def status(self):
        return json.loads(self.run_lab("status", "--json"))

    def pids(self):
        """All processes of this test's lab that live."""
        mark, found = str(self.folder).encode(), []
        for entry in pathlib.Path("/proc").iterdir():
            try:
                words = (entry / "cmdline").read_bytes()
                inside = os.readlink(entry / "cwd").startswith(str(self.lab))
            except (OSError, ValueError):
                continue
            pid = int(entry.name) if entry.name.isdigit() else 0
            if pid and (mark in words or inside) and process_start_time(pid):
                found.append(pid)
        return found

    def assert_nothing_left(self):
        eventually(lambda: not self.pids(), "all processes gone")
        self.run_lab("down")
        self.assertFalse(self.lab.exists())

    def fence(self, asker, request):
        folder = self.lab / "hosts" / asker
        (folder / "answer").unlink(missing_ok=True)
        (folder / "ask.new").write_text(request + "\n")
        (folder / "ask.new").rename(folder / "ask")
        return folder / "answer"

    def test_up_and_down(self):
        self.up()
        self.assertEqual({h["state"] for h in self.status()["hosts"].values()}, {"up"})
        self.assertIn("a lab is up already", self.run_lab("up", code=1))
        self.assertEqual((self.lab / "share/.token").stat().st_mode & 0o77, 0)
        self.assertTrue((self.lab / "share/guest/initrd.img").exists())
        self.run_lab("down")
        self.assert_nothing_left()

    def test_an_emulated_host_has_one_processor_of_the_machine(self):
        self.up()
        has = [os.sched_getaffinity(h["pid"]) for h in self.status()["hosts"].values()]
        self.assertEqual([len(cpus) for cpus in has], [1, 1])
        if len(os.sched_getaffinity(0)) > 1:
            self.assertNotEqual(*has)

    def test_kill_start_freeze(self):
        self.up()
        pid = self.status()["hosts"]["hostb"]["pid"]
        self.run_lab("freeze", "hostb")
        self.assertIn("frozen", self.run_lab("exec", "hostb", "--", "true", code=1))
        self.run_lab("thaw", "hostb")
        self.run_lab("kill", "hostb")
        self.assertIsNone(process_start_time(pid))
        self.run_lab("kill", "hostb")
        self.assertIn("hostb is off", self.run_lab("exec", "hostb", "--", "true", code=1))
        self.run_lab("start", "hostb")
        self.assertNotEqual(self.status()["hosts"]["hostb"]["pid"], pid)
        self.assertIn("is up already", self.run_lab("start", "hostb", code=1))
        self.assertIn("no host", self.run_lab("kill", "hostx", code=1))

    def test_a_fence_is_confirmed_when_the_process_is_gone(self):
        self.up()
        pid = self.status()["hosts"]["hostb"]["pid"]
        answer = self.fence("hosta", "id1 off hostb")
        eventually(answer.exists, "an answer")
        self.assertIsNone(process_start_time(pid))
        self.assertEqual(answer.read_text(), "id1 ok\n")
        self.assertEqual([f["host"] for f in self.status()["fenced"]], ["hostb"])
        for request, want in (("id2 status hostb", "id2 off\n"), ("id3 status hosta", "id3 on\n"),
                              ("id4 off hostx", "id4 fail no host hostx\n"),
                              ("id5 reboot hosta", "id5 fail no action reboot\n"),
                              ("id6 off hostb", "id6 ok\n")):
            answer = self.fence("hosta", request)
            eventually(answer.exists, request)
            self.assertEqual(answer.read_text(), want)

    def test_a_broken_fence_kills_nobody(self):
        self.up()
        self.run_lab("fence", "--broken", "hostb")
        answer = self.fence("hosta", "id1 off hostb")
        eventually(answer.exists, "an answer")
        self.assertTrue(answer.read_text().startswith("id1 fail "))
        self.run_lab("fence", "--broken", "hostb", "--mode", "hang")
        hanging = self.fence("hosta", "id2 off hostb")
        eventually(lambda: not (hanging.parent / "ask").exists(), "the request was sent")
        self.assertEqual(self.status()["hosts"]["hostb"]["state"], "up")
        self.run_lab("fence", "--repair")
        answer = self.fence("hosta", "id3 off hostb")
        eventually(answer.exists, "an answer")
        self.assertIn("id3 ok\n", answer.read_text())

    def test_links_and_recording(self):
        self.up()
        self.run_lab("cut", "repl", "hosta", "--dir", "out")
        self.assertEqual(self.status()["cuts"], [["repl", "hosta", "*", "out"]])
        self.run_lab("heal")
        self.assertEqual(self.status()["cuts"], [])
        path = pathlib.Path(self.run_lab("pcap", "front", "on").strip())
        self.assertEqual(self.run_lab("pcap", "front", "off").strip(), str(path))
        self.assertEqual(path.read_bytes()[:4], b"\x4d\x3c\xb2\xa1")
        self.run_lab("delay", "2.5", "repl")
        self.run_lab("loss", "10")
        self.assertIn("switch", self.run_lab("cut", "back", code=1))

    def interrupted(self, number):
        process = self.start_lab("up", "--accel", "tcg", FAKE_EMULATOR="never-up")
        eventually(lambda: len(list(self.lab.glob("hosts/*/disk.img"))) == 3 and len(self.pids()) >= 5,
                   "emulators run")
        process.send_signal(number)
        process.communicate(timeout=60)
        return process.returncode

    def test_ctrl_c_while_it_comes_up(self):
        self.assertEqual(self.interrupted(signal.SIGINT), 130)
        self.assertFalse(self.lab.exists())
        self.assert_nothing_left()

    def test_sigterm_while_it_comes_up(self):
        self.assertEqual(self.interrupted(signal.SIGTERM), 143)
        self.assertFalse(self.lab.exists())
        self.assert_nothing_left()

    def test_the_death_of_lab_up_itself(self):
        self.interrupted(signal.SIGKILL)
        self.assert_nothing_left()

    def test_the_death_of_the_supervisor(self):
        self.up()
        os.kill(self.status()["pid"], signal.SIGKILL)
        self.assert_nothing_left()

    def test_a_host_that_does_not_start(self):
        out = self.run_lab("up", "--hosts", "hosta,hostb", "--accel", "tcg", code=1,
                           FAKE_EMULATOR="dies-hostb")
        self.assertIn("no room", out)
        self.assertFalse(self.lab.exists())
        self.assert_nothing_left()

    def test_a_folder_of_others_is_left_alone(self):
        self.lab.mkdir()
        (self.lab / "thesis").write_text("x")
        self.assertIn("in use", self.run_lab("up", "--accel", "tcg", code=1))
        self.run_lab("down")
        self.assertEqual((self.lab / "thesis").read_text(), "x")

    def test_two_labs_at_once(self):
        self.up()
        other = str(self.folder / ("a-long-name-" * 12))
        self.run_lab("up", "--dir", other, "--hosts", "hosta", "--accel", "tcg")
        self.run_lab("down", "--dir", other)
        self.assertFalse(os.path.exists(other))
        self.assertEqual(self.status()["hosts"]["hosta"]["state"], "up")

    def test_bad_host_names(self):
        for names in ("", "a,a", "a/b", "A", ",".join("abcdefghij")):
            self.run_lab("up", "--hosts", names, "--accel", "tcg", code=1)
        self.assertFalse(self.lab.exists())
