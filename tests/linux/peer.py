# SPDX-License-Identifier: Apache-2.0
"""The other end of a guest's network: a namespace with a tap, and an HTTP server in it that says
what it sent and what has arrived. A thread's namespace is its own: whoever makes a Peer stays in it."""
import contextlib
import ctypes
import hashlib
import http.server
import os
import random
import subprocess
import threading

CLONE_NEWNET = 0x40000000
TAP = "guest0"
ADDRESS, GUEST = "10.79.0.1", "10.79.0.2"
CMDLINE = f"pollux.ip={GUEST}/24 pollux.peer={ADDRESS}"


def lacking():
    """Why there can be no peer here, or None."""
    if os.geteuid() != 0:
        return "a network namespace and a tap need root"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "there is no usable /dev/net/tun"
    return None


def sum_text(data):
    """As sha256sum prints it for its standard input."""
    return f"{hashlib.sha256(data).hexdigest()}  -\n".encode()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"

    def _answer(self, data):
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        what, size = self.path.strip("/").split("/")
        data = self.server.blob(int(size))
        self._answer(data if what == "down" else sum_text(data))

    def do_POST(self):
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.arrived.append(data)
        self._answer(sum_text(data))

    def log_message(self, *_):
        pass


class Peer(http.server.ThreadingHTTPServer):
    def __init__(self, seed):
        self.seed, self.arrived = seed, []
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWNET):
            number = ctypes.get_errno()
            raise OSError(number, f"no network namespace: {os.strerror(number)}")
        for words in (f"tuntap add dev {TAP} mode tap", f"addr add {ADDRESS}/24 dev {TAP}",
                      f"link set {TAP} up", "link set lo up"):
            subprocess.run(["ip", *words.split()], check=True)
        super().__init__((ADDRESS, 8000), Handler)
        self.thread = threading.Thread(target=self.serve_forever, daemon=True)
        self.thread.start()

    def blob(self, size):
        return random.Random(self.seed).randbytes(size)

    def end(self):
        with contextlib.suppress(OSError):
            self.shutdown()
            self.server_close()
