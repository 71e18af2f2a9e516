# SPDX-License-Identifier: Apache-2.0
"""Requests to the supervisor: a line of JSON each way over its unix socket. Before the last line
of an answer, which has "ok", there may be lines of progress, which have "event"."""
import json

from .place import LabError


def request(place, op, progress=None, timeout=None, **fields):
    with place.connect("ctl.sock") as sock:
        return exchange(sock, op, progress, timeout, **fields)


def exchange(sock, op, progress=None, timeout=None, **fields):
    sock.settimeout(timeout)
    sock.sendall(json.dumps({"op": op, **fields}).encode() + b"\n")
    with sock.makefile("r") as lines:
        for line in lines:
            answer = json.loads(line)
            if "ok" not in answer:
                if progress:
                    progress(answer["event"])
                continue
            if not answer["ok"]:
                raise LabError(answer["error"])
            return answer
    raise LabError("the lab's supervisor is gone")
