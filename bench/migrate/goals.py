# SPDX-License-Identifier: Apache-2.0
"""Runs put together, and what they say about each goal."""
import statistics

IDLE_DOWNTIME_MS, BUSY_DOWNTIME_MS = 10, 30
LISTS = ("seconds", "downtime_ms", "forecast_ms", "sender_cpu_seconds", "receiver_cpu_seconds",
         "wire_bytes", "pages_per_second")
KEYS = ("path", "streams", "content", "load", "mib")


def results(records):
    """One entry for each row, in the order of the first run."""
    rows = {}
    for r in records:
        key = tuple(r[k] for k in KEYS)
        row = rows.setdefault(key, {"key": dict(zip(KEYS, key)), "runs": 0, "failed": 0, "rate": [],
                                    **{name: [] for name in LISTS}})
        row["runs"] += 1
        row["failed"] += r.get("converged") is False
        for name in LISTS:
            if r.get(name) is not None:
                row[name].append(r[name])
        for name, ms in r.get("handover_ms", {}).items():
            row.setdefault("handover_ms", {}).setdefault(name, []).append(ms)
        if r.get("seconds"):
            row["rate"].append(r.get("bytes", r["mib"] << 20) / r["seconds"])
    return list(rows.values())


class Found:
    def __init__(self, rows):
        self.rows = rows

    def median(self, name, path, streams=1, content="random", load="idle", mib=None):
        for r in self.rows:
            k = r["key"]
            if (k["path"], k["streams"], k["content"], k["load"]) == (path, streams, content, load) \
                    and mib in (None, k["mib"]) and r[name]:
                return statistics.median(r[name])
        return None

    def row(self, path, *where):
        for r in self.rows:
            k = r["key"]
            if (k["path"], k["streams"], k["content"], k["load"], k["mib"]) == (path, *where):
                return r
        return None

    def cpu(self, path, streams):
        """Processor seconds of both sides."""
        parts = [self.median(f"{side}_cpu_seconds", path, streams) for side in ("sender", "receiver")]
        return None if None in parts else sum(parts)

    def keys(self, path):
        return [r["key"] for r in self.rows if r["key"]["path"] == path]


def ratio(a, b):
    return a / b if a is not None and b else None


def encryption(found):
    for n in (1, 2, 4):
        r = ratio(found.median("rate", "session, TLS", n), found.median("rate", "session, plain", n))
        yield f"encrypted / unencrypted rate, {n} streams", r, ">=", 0.90
        r = ratio(found.cpu("session, plain", n), found.cpu("session, TLS", n))
        yield f"the same by processor time of both sides, {n} streams", r, ">=", 0.90


def cipher(found):
    """What a core encrypts: the processor time that TLS adds on one side."""
    tls = found.median("sender_cpu_seconds", "session, TLS")
    plain = found.median("sender_cpu_seconds", "session, plain")
    speed = found.median("rate", "openssl speed AES-128-GCM")
    sent = found.median("wire_bytes", "session, TLS")
    rate = sent / (tls - plain) if None not in (tls, plain, sent) and tls > plain else None
    yield "TLS on the sender / openssl speed, a core", ratio(rate, speed), ">=", 0.85


def beside_qemu(found):
    for k in found.keys("pollux migrate"):
        where = (k["streams"], k["content"], k["load"], k["mib"])
        name = f"{k['mib']} MiB {k['content']}, {k['load']}, {k['streams']} streams"
        for what, unit in (("seconds", "total time"), ("downtime_ms", "downtime")):
            ours = found.median(what, "pollux migrate", *where)
            for mode in ("TLS", "plain"):
                theirs = found.median(what, f"QEMU, {mode}", *where)
                yield f"{unit} / QEMU {mode}: {name}", ratio(ours, theirs), "<=", 0.5


def downtime(found):
    for k in found.keys("pollux migrate"):
        where = (k["streams"], k["content"], k["load"], k["mib"])
        most = IDLE_DOWNTIME_MS if k["load"] == "idle" else BUSY_DOWNTIME_MS
        name = f"{k['mib']} MiB {k['content']}, {k['load']}, {k['streams']} streams"
        measured = found.median("downtime_ms", "pollux migrate", *where)
        yield f"downtime, ms: {name}", measured, "<=", most
        row = found.row("pollux migrate", *where)
        errors = [abs(f - d) / d for f, d in zip(row["forecast_ms"], row["downtime_ms"])]
        yield f"forecast's error: {name}", statistics.median(errors) if errors else None, "<=", 0.20


def compare(rows):
    found, out = Found(rows), []
    for part in (encryption, cipher, beside_qemu, downtime):
        for what, value, sign, goal in part(found):
            met = None if value is None else value >= goal if sign == ">=" else value <= goal
            out.append({"what": what, "value": value, "goal": f"{sign} {goal}", "met": met})
    return out


def show(compared):
    print(f"\n{'goal':72}{'measured':>10} {'wanted':>8}")
    for g in compared:
        if g["value"] is None:
            continue
        print(f"{g['what']:72}{g['value']:10.2f} {g['goal']:>8}  {'met' if g['met'] else 'not met'}")
