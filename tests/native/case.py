# SPDX-License-Identifier: Apache-2.0
"""A test case: what it is registered with, and the folder and processes that it has."""
import os
import shutil
import signal
import tempfile
import threading

CASES = []
PATIENCE = 90  # seconds; what is waited for takes less than one, unless the machine is overloaded


def case(name, seconds=150, needs=("kvm",), **values):
    """Register a function as a case of that name; `values` are its arguments."""
    def add(function):
        CASES.append((name, seconds, needs, function, values))
        return function
    return add


class Case:
    def __init__(self, build, seed):
        self.build, self.seed = os.path.abspath(build), seed
        self.folder = tempfile.mkdtemp(prefix="pollux-native-")
        self.cleanups, self.logs = [], []

    def path(self, name):
        return os.path.join(self.folder, name)

    def guest(self, name):
        return os.path.join(self.build, "tests/guests", name)

    def cleanup(self, function):
        self.cleanups.append(function)

    def end(self):
        """Undo everything; the first problem with that."""
        problem = None
        for function in reversed(self.cleanups):
            try:
                function()
            except Exception as e:
                problem = problem or e
        return problem

    def show_logs(self):
        for log in self.logs[-8:]:
            with open(log, errors="replace") as f:
                text = f.read()
            print(f"---- {os.path.basename(log)}\n{text[-2000:].rstrip()}")

    def remove(self):
        shutil.rmtree(self.folder, ignore_errors=True)


class Console:
    """Keeps what a guest says."""

    def __init__(self, path):
        self.path, (self.read_fd, self.write_fd) = path, os.pipe()
        self.text, self.changed = "", threading.Condition()
        self.null = os.open("/dev/null", os.O_RDONLY)
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        with open(self.path, "wb") as f:
            while True:
                data = os.read(self.read_fd, 4096)
                if not data:
                    return
                f.write(data)
                f.flush()
                with self.changed:
                    self.text += data.decode(errors="replace")
                    self.changed.notify_all()

    def fds(self):
        return [self.null, self.write_fd]

    def handed_over(self):
        os.close(self.write_fd)
        os.close(self.null)

    def wait(self, what, timeout=PATIENCE):
        with self.changed:
            if not self.changed.wait_for(lambda: what in self.text or "FAIL" in self.text, timeout):
                raise TimeoutError(f"the guest did not say {what!r} in {timeout} s")
        self.check()

    def wait_more(self, what, timeout=PATIENCE):
        """`what` once more often than now."""
        with self.changed:
            n = self.text.count(what)
            if not self.changed.wait_for(
                    lambda: self.text.count(what) > n or "FAIL" in self.text, timeout):
                raise TimeoutError(f"the guest did not say {what!r} again in {timeout} s")
        self.check()

    def check(self):
        assert "FAIL" not in self.text, self.text[self.text.index("FAIL") - 80:][:400]


def signal_name(code):
    return signal.Signals(-code).name if code < 0 else str(code)
