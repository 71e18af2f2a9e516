# SPDX-License-Identifier: Apache-2.0
import os
import pathlib
import select
import shutil
import tempfile
import time
import unittest

TOOLS = pathlib.Path(os.environ["POLLUX_BUILD"]) / "lab"
PATIENCE = 20


def eventually(condition, what):
    """Waits for what must come; the limit only bounds a failure."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError(f"did not happen: {what}")


def readable(fd, seconds=PATIENCE):
    return bool(select.select([fd], [], [], seconds)[0])


class FolderTest(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="pollux-lab-test-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
