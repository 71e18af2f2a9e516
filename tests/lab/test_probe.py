# SPDX-License-Identifier: Apache-2.0
"""echo-probe on a loopback device of its own, which is switched off for a while."""
import json
import subprocess

from common import TOOLS, FolderTest

SILENCE = f"""
set -e
ip link set lo up
{TOOLS}/echo-probe -i 5 127.0.0.1 >out &
sleep 2
ip link set lo down
sleep 0.3
ip link set lo up
sleep 2
kill -TERM $!
wait $!
"""


class ProbeTest(FolderTest):
    def test_a_silence_is_found_and_measured(self):
        subprocess.run(["unshare", "--user", "--map-root-user", "--net", "sh", "-c", SILENCE],
                       cwd=self.folder, check=True, timeout=30)
        seen = json.loads((self.folder / "out").read_text())
        self.assertGreaterEqual(seen["longest_gap_ms"], 299)
        self.assertGreater(seen["gap_end_ns"], seen["gap_start_ns"])
        self.assertGreater(seen["requests"], seen["replies"])
        self.assertGreater(seen["replies"], 2)

    def test_nobody_there_is_an_error(self):
        done = subprocess.run(["unshare", "--user", "--map-root-user", "--net", "timeout", "-s",
                               "TERM", "2", f"{TOOLS}/echo-probe", "127.0.0.1"],
                              capture_output=True, text=True, timeout=30)
        self.assertEqual(json.loads(done.stdout)["replies"], 0)

    def test_usage(self):
        done = subprocess.run([f"{TOOLS}/echo-probe", "-i", "0", "127.0.0.1"],
                              capture_output=True, text=True, timeout=30)
        self.assertEqual(done.returncode, 2)
