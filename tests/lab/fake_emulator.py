# SPDX-License-Identifier: Apache-2.0
"""Stands in for qemu-system-x86_64: connects where QEMU would, answers QMP, says that the host is
up, passes on what a test writes into the file "ask" of its host's folder as a fence request."""
import json
import os
import re
import select
import socket
import sys
import time

folder = re.search(r"path=(hosts/[^/]+)/qmp.sock", " ".join(sys.argv)).group(1)
name = os.path.basename(folder)


def connected(path):
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    return sock


def qmp_answer(line):
    request = json.loads(line)
    port = "TCP[HOST_FORWARD]  12  127.0.0.1 1  10.0.2.15 4000"
    return {"return": port if request["execute"] == "human-monitor-command" else {}}


mode = os.environ.get("FAKE_EMULATOR", "")
if mode == f"dies-{name}":
    sys.exit("fake emulator: no room")
fence, qmp = connected(f"{folder}/fence.sock"), connected(f"{folder}/qmp.sock")
qmp.sendall(b'{"QMP": {}}\n')
if mode != "never-up":
    fence.sendall(b"boot ready x\n")
pending = b""
while True:
    if select.select([qmp], [], [], 0.02)[0]:
        data = qmp.recv(4096)
        if not data:
            time.sleep(1000)
        pending += data
        while b"\n" in pending:
            line, pending = pending.split(b"\n", 1)
            qmp.sendall(json.dumps(qmp_answer(line)).encode() + b"\n")
    if os.path.exists(f"{folder}/ask"):
        with open(f"{folder}/ask", "rb") as ask:
            text = ask.read()
        os.unlink(f"{folder}/ask")
        fence.sendall(text)
    if select.select([fence], [], [], 0)[0]:
        with open(f"{folder}/answer.new", "wb") as answer:
            answer.write(fence.recv(4096))
        os.rename(f"{folder}/answer.new", f"{folder}/answer")
