# SPDX-License-Identifier: Apache-2.0
"""fence-lab, with a pseudo-terminal for its port and a made-up supervisor behind it."""
import os
import pty
import subprocess
import tty
import unittest

from common import TOOLS, readable


class FenceTest(unittest.TestCase):
    def setUp(self):
        self.outside, inside = pty.openpty()
        tty.setraw(inside)
        self.path = os.ttyname(inside)
        self.addCleanup(os.close, self.outside)
        self.addCleanup(os.close, inside)

    def ask(self, stdin, answers, arguments=()):
        """answers: reply lines, with ID for the request's; returns exit code, request, stderr."""
        process = subprocess.Popen([TOOLS / "fence-lab", *arguments], stdin=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True,
                                   env={"POLLUX_FENCE_PORT": self.path})
        process.stdin.write(stdin)
        process.stdin.close()
        request = ""
        if answers is not None:
            self.assertTrue(readable(self.outside))
            while not request.endswith("\n"):
                request += os.read(self.outside, 100).decode()
            ident = request.split()[0]
            os.write(self.outside, "".join(a.replace("ID", ident) for a in answers).encode())
        code = process.wait(20)
        err = process.stderr.read()
        process.stderr.close()
        return code, request.split()[1:], err

    def test_off_confirmed(self):
        code, request, _ = self.ask("# comment\nipaddr=x\naction=off\nplug=hostb\n", ["ID ok\n"])
        self.assertEqual((code, request), (0, ["off", "hostb"]))

    def test_off_is_the_default_action_and_port_is_plug(self):
        self.assertEqual(self.ask("port=hostb\n", ["ID ok\n"])[:2], (0, ["off", "hostb"]))

    def test_arguments(self):
        code, request, _ = self.ask("", ["ID on\n"], ("-o", "status", "-n", "hosta"))
        self.assertEqual((code, request), (0, ["status", "hosta"]))

    def test_status_off(self):
        self.assertEqual(self.ask("action=status\nplug=a\n", ["ID off\n"])[0], 2)

    def test_failure_is_no_confirmation(self):
        code, _, err = self.ask("action=off\nplug=hostb\n", ["ID fail no such host\n"])
        self.assertEqual(code, 1)
        self.assertIn("no such host", err)

    def test_an_unknown_answer_is_no_confirmation(self):
        for answer in ("ID okay\n", "ID \n", "ID o\n"):
            self.assertEqual(self.ask("action=off\nplug=b\n", [answer])[0], 1, answer)

    def test_the_answer_to_somebody_else_is_passed_over(self):
        code, _, _ = self.ask("action=off\nplug=b\n", ["0000000000000000 ok\n", "noise\n", "ID fail x\n"])
        self.assertEqual(code, 1)

    def test_silence_is_no_confirmation(self):
        code, _, err = self.ask("action=off\nplug=b\npower_timeout=1\n", [])
        self.assertEqual(code, 1)
        self.assertIn("no answer", err)

    def test_without_a_plug_or_with_a_bad_one_nothing_is_asked(self):
        for text in ("", "action=off\n", "action=off\nplug=a b\n", "action=o/f\nplug=b\n"):
            self.assertEqual(self.ask(text, None)[0], 1, text)
            self.assertFalse(readable(self.outside, 0))

    def test_no_port(self):
        done = subprocess.run([TOOLS / "fence-lab"], input=b"plug=b\n", stderr=subprocess.PIPE,
                              env={"POLLUX_FENCE_PORT": "/nonexistent"}, timeout=20)
        self.assertEqual(done.returncode, 1)
