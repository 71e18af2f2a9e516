#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Decode the streams of a replication session or a postcopy link, written from docs/protocol.md
alone, or a saved image, written from docs/image-format.md.

usage: decode.py FOLDER
       decode.py --link FOLDER
       decode.py --image FILE XXH3-64 [KEY]

FOLDER holds stream-N.bin, the records that the primary sent on stream N, and `session`: each line
"epoch N", then words and XXH3-64 hashes (hexadecimal) of what the twin is after it: "ram", "state",
"disk" (other lines are passed over). Rebuilds memory and disks epoch by epoch, checks every count,
checksum and chain, and compares; pages that a migration leaves behind count as zero.

Of a link FOLDER holds source-N.bin and target-N.bin, what each side sent on stream N, and `session`
with a line "ram HASH": of memory that was zero and has got all that was missing. The link has to go
to its end, ALL_OK.

Of a saved image the memory has to have that XXH3-64; KEY is in hexadecimal. Exits 0 when all
agrees, 1 with a sentence when not.
"""

import ctypes
import hmac
import pathlib
import struct
import sys
import zlib

PAGE = 4096
HELLO, HEARTBEAT, BYE = 1, 4, 6
BEGIN, PAGES, MEMBER, STATE, END, MISSING, ROUND_END = 16, 17, 18, 19, 20, 21, 22

xxhash = ctypes.CDLL("libxxhash.so.0")
xxhash.XXH3_64bits_withSeed.restype = ctypes.c_uint64
xxhash.XXH3_64bits_withSeed.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint64]
lz4 = ctypes.CDLL("liblz4.so.1")


class Wrong(Exception):
    pass


def need(condition, text):
    if not condition:
        raise Wrong(text)


def xxh3(data, seed=0):
    return xxhash.XXH3_64bits_withSeed(bytes(data), len(data), seed)


def records(data, optional=(HEARTBEAT, ROUND_END)):
    at = 0
    while at < len(data):
        need(len(data) - at >= 8, "a record header is cut")
        kind, flags, size = struct.unpack_from("<HHI", data, at)
        need(kind != 0 and flags & ~1 == 0 and size <= 8388608, f"record header at {at}")
        need((flags & 1) == (kind not in optional), f"mandatory bit of type {kind}")
        at += 8
        need(len(data) - at >= size, "a record is cut")
        yield kind, data[at : at + size]
        at += size


def missing_pages(payload, pages):
    """The pages of a list: where it begins, then words of bits."""
    need(len(payload) >= 16 and len(payload) % 8 == 0, "length of MISSING")
    first, *words = struct.unpack(f"<{len(payload) // 8}Q", payload)
    need(first % 64 == 0, "begin of MISSING")
    out = [first + 64 * w + b for w, word in enumerate(words) for b in range(64) if word >> b & 1]
    need(first + 64 * len(words) <= -(-pages // 64) * 64 and max(out, default=0) < pages,
         "MISSING beyond the end of memory")
    return out


def unpack(how, body, size):
    if how == 0:
        return body
    need(len(body) < size, "a packed body that is not smaller")
    if how == 2:
        return zlib.decompress(body)
    need(how == 1, f"compression {how}")
    out = ctypes.create_string_buffer(size)
    need(lz4.LZ4_decompress_safe(bytes(body), out, len(body), size) == size, "LZ4")
    return out.raw


class Machine:
    """Memory, state and disks of the twin, and what is known of each page."""

    def __init__(self, pages, streams, disks):
        self.ram = bytearray(pages * PAGE)
        self.disks = {member: bytearray(size) for member, size in disks}
        self.state = b""
        self.pages, self.streams = pages, streams
        self.versions = {}
        self.missing = set()
        self.kinds = [0, 0, 0]

    def delta(self, page, runs):
        at = word = 0
        while at < len(runs):
            skip, count = struct.unpack_from("<HH", runs, at)
            at += 4
            word += skip
            need(count and word + count <= 512, "a run leaves its page")
            for _ in range(count):
                (change,) = struct.unpack_from("<Q", runs, at)
                where = page * PAGE + word * 8
                (old,) = struct.unpack_from("<Q", self.ram, where)
                struct.pack_into("<Q", self.ram, where, old ^ change)
                at += 8
                word += 1
        need(at == len(runs), "runs are cut")

    def page(self, epoch, stream, body, at, seen):
        (word,) = struct.unpack_from("<Q", body, at)
        page, kind = word >> 2, word & 3
        at += 8
        need(page < self.pages, f"page {page}")
        need(not self.streams or stream == 1 + page // 16 % self.streams,
             f"page {page} on stream {stream}")
        need(epoch == 1 or page not in seen, f"page {page} twice in epoch {epoch}")
        seen.add(page)
        where = slice(page * PAGE, (page + 1) * PAGE)
        if kind == 0:
            self.ram[where] = bytes(PAGE)
        elif kind == 1:
            need(len(body) - at >= PAGE, "a raw page is cut")
            self.ram[where] = body[at : at + PAGE]
            at += PAGE
        else:
            need(kind == 2, f"kind {kind}")
            base, size, zero = struct.unpack_from("<IHH", body, at)
            need(not zero and 0 < size <= 3072, "header of a delta")
            need(self.versions.get(page) == base, f"base of page {page}")
            self.delta(page, body[at + 8 : at + 8 + size])
            at += 8 + size
        self.versions[page] = epoch & 0xFFFFFFFF
        self.kinds[kind] += 1
        return at

    def disk_record(self, member, payload):
        _disk, op, zero, size, at = struct.unpack_from("<HBBIQ", payload)
        need(op in (1, 2) and not zero, "record of a disk")
        need(len(payload) == 16 + (size if op == 1 else 0), "length of a disk's record")
        disk = self.disks.get(member)
        need(disk is not None and at + size <= len(disk), "a record outside of its disk")
        disk[at : at + size] = payload[16:] if op == 1 else bytes(size)

    def hashes(self):
        """At the end of an epoch: other streams may have sent pages that are left behind."""
        for page in self.missing:
            self.ram[page * PAGE : (page + 1) * PAGE] = bytes(PAGE)
        out = {"ram": xxh3(self.ram), "state": xxh3(self.state)}
        if len(self.disks) == 1:
            out["disk"] = xxh3(*self.disks.values())
        return out

    def batch(self, epoch, stream, payload, seen):
        number, count, how, size, zero, checksum = struct.unpack_from("<QIIIIQ", payload)
        need(number == epoch and 1 <= count <= 256 and how <= 2 and not zero, "header of PAGES")
        body = unpack(how, payload[32:], size)
        need(len(body) == size and xxh3(body) == checksum, "checksum of PAGES")
        at = 0
        for _ in range(count):
            at = self.page(epoch, stream, body, at, seen)
        need(at == size, "octets after the last page")
        return count, checksum


class Stream:
    """One bulk stream, taken epoch by epoch."""

    def __init__(self, number, rows, machine):
        self.number, self.rows, self.machine = number, rows, machine
        self.members = self.round = 0

    def round_end(self, epoch, payload):
        (number,) = struct.unpack("<Q", payload)
        need(epoch == 1 and number > self.round, f"stream {self.number}: end of round {number}")
        self.round = number

    def epoch(self, epoch):
        """Apply one epoch; False when the stream ends before it is complete."""
        sums, chain, seen = [0, 0, 0, 0], 0, set()
        row = next(self.rows, None)
        if row is None:
            return False
        need(row[0] == BEGIN and row[1] == struct.pack("<Q", epoch), f"begin of epoch {epoch}")
        for kind, payload in self.rows:
            if kind == ROUND_END:
                self.round_end(epoch, payload)
                continue
            need(struct.unpack_from("<Q", payload)[0] == epoch, f"type {kind} in epoch {epoch}")
            if kind == END:
                need(
                    struct.unpack("<QQQQQQ", payload) == (epoch, *sums, chain),
                    f"stream {self.number}: end of epoch {epoch}",
                )
                need(sums[3] == (self.number == 1), "number of machine states")
                return True
            if kind == PAGES:
                count, checksum = self.machine.batch(epoch, self.number, payload, seen)
                sums[0] += 1
                sums[1] += count
            elif kind == MEMBER:
                need(self.number == 1 and payload[10:16] == bytes(6), "header of MEMBER")
                self.machine.disk_record(struct.unpack_from("<H", payload, 8)[0], payload[16:])
                checksum = xxh3(payload[16:])
                sums[2] += 1
                self.members += 1
            elif kind == MISSING:
                need(self.number == 1 and epoch == 1 and not sums[3], "MISSING at a wrong place")
                self.machine.missing.update(missing_pages(payload[8:], self.machine.pages))
                checksum = xxh3(payload[8:])
            else:
                need(kind == STATE and self.number == 1, f"type {kind} in an epoch")
                self.machine.state = payload[8:]
                checksum = xxh3(payload[8:])
                sums[3] += 1
            chain = xxh3(struct.pack("<Q", checksum), chain)
        return False


def hello(rows, stream):
    kind, payload = next(rows)
    version, own, streams, members, _term, pages = struct.unpack_from("<HHHHQQ", payload)
    need(kind == HELLO and version == 2 and own == stream, f"hello of stream {stream}")
    need(len(payload) == 48 + 16 * members, "length of HELLO")
    return streams, pages, tuple(struct.iter_unpack("<QQ", payload[48:]))


def session(text):
    """{epoch: {word: hash}}"""
    out = {}
    for line in text.splitlines():
        words = line.split()
        if words[0] == "epoch":
            out[int(words[1])] = dict(zip(words[2::2], words[3::2]))
    return out


def decode(folder):
    rows = [records((folder / f"stream-{i}.bin").read_bytes()) for i in range(17)
            if (folder / f"stream-{i}.bin").exists()]
    greetings = {hello(r, i) for i, r in enumerate(rows)}
    need(len(greetings) == 1, "the streams' hellos differ")
    streams, pages, disks = greetings.pop()
    need(len(rows) == streams + 1, f"{len(rows)} streams instead of {streams + 1}")
    need(all(kind in (HEARTBEAT, BYE) for kind, _ in rows[0]), "type on the control stream")
    images = session((folder / "session").read_text())
    machine = Machine(pages, streams, disks)
    bulk = [Stream(i, rows[i], machine) for i in range(1, streams + 1)]
    epoch = compared = 0
    while all([s.epoch(epoch + 1) for s in bulk]):
        epoch += 1
        hashes = machine.hashes()
        for word, value in images.get(epoch, {}).items():
            need(f"{hashes[word]:016x}" == value, f"{word} of epoch {epoch}")
            compared += 1
    zero, raw, delta = machine.kinds
    print(f"{epoch} epochs, {compared} hashes equal; pages: {zero} zero, {raw} raw, {delta} delta; "
          f"{bulk[0].members} disk records"
          + (f"; {bulk[0].round} rounds" if bulk[0].round else "")
          + (f"; {len(machine.missing)} left behind" if machine.missing else ""))
    need(epoch > 0 and (compared > 0 or not images), "nothing to compare")


# ---- postcopy links -------------------------------------------------------------------------

LINK, LINK_OK, LINK_BEAT, LINK_MISSING, GO, NEED, ALL, ALL_OK = range(32, 40)
LINK_FIRST, PUSH_MOST = 32, 16


def link_rows(folder, side, stream):
    return list(records((folder / f"{side}-{stream}.bin").read_bytes(), (LINK_BEAT,)))


def link_greeting(rows, answers, stream):
    """What LINK says, but for the stream; it is the first of its stream, and is welcomed first."""
    need(rows and rows[0][0] == LINK and len(rows[0][1]) == 48, f"stream {stream} has no LINK")
    version, own, push, zero, term, pages, number = struct.unpack_from("<HHHHQQQ", rows[0][1])
    need(version == 1 and own == stream and not zero and number, f"LINK of stream {stream}")
    need(1 <= push <= PUSH_MOST, "push streams")
    need(answers and answers[0] == (LINK_OK, b""), f"stream {stream} is not welcomed")
    return push, term, pages, number, rows[0][1][32:]


def words_of(kind, payload, least, most):
    need(len(payload) % 8 == 0 and least <= len(payload) // 8 <= most, f"length of type {kind}")
    return struct.unpack(f"<{len(payload) // 8}Q", payload)


def target_says(rows, pages):
    """What the target lists, and what it asks for."""
    listed, asked, gone, end = [], set(), False, False
    for kind, payload in rows:
        need(not end or kind == LINK_BEAT, "the target says more after ALL")
        if kind == LINK_MISSING:
            part = missing_pages(payload, pages)
            need(not gone and len(payload) <= 8 * 8193, "MISSING after GO")
            need(not part or not listed or part[0] > listed[-1], "order of MISSING")
            listed += part
        elif kind == GO:
            need(not gone and not payload, "GO")
            gone = True
        elif kind == NEED:
            asked.update(words_of(kind, payload, 1, 256))
        elif kind == ALL:
            need(gone and not payload, "ALL")
            end = True
        else:
            need(kind == LINK_BEAT, f"type {kind} from the target")
            words_of(kind, payload, 1, 1)
    need(end, "the target has not said ALL")
    return set(listed), asked


def source_says(rows, stream, machine):
    """The pages that come over a stream; on the control stream it ends with ALL_OK."""
    came, end = [], False
    for kind, payload in rows:
        need(not end, "the source says more after ALL_OK")
        if kind == PAGES:
            seen = set()
            machine.batch(1, stream, payload, seen)
            came += seen
        elif kind == ALL_OK:
            need(stream == LINK_FIRST and not payload, "ALL_OK")
            end = True
        else:
            need(kind == LINK_BEAT and stream == LINK_FIRST, f"type {kind} on stream {stream}")
            words_of(kind, payload, 1, 1)
    need(end == (stream == LINK_FIRST), "the source has not said ALL_OK")
    return came


def link_decode(folder):
    first = link_rows(folder, "source", LINK_FIRST)
    push, _term, pages, *_ = link_greeting(first, link_rows(folder, "target", LINK_FIRST), LINK_FIRST)
    streams = range(LINK_FIRST, LINK_FIRST + push + 1)
    rows = {(side, i): link_rows(folder, side, i) for side in ("source", "target") for i in streams}
    greetings = {link_greeting(rows["source", i], rows["target", i], i) for i in streams}
    need(len(greetings) == 1, "the streams' LINKs differ")
    need(all(len(rows["target", i]) == 1 for i in streams[1:]), "the target speaks on a push stream")
    listed, asked = target_says(rows["target", LINK_FIRST][1:], pages)
    machine = Machine(pages, 0, [])
    came = {i: source_says(rows["source", i][1:], i, machine) for i in streams}
    pushed = [page for i in streams[1:] for page in came[i]]
    need(len(pushed) == len(set(pushed)), "a page is pushed twice")
    need(not machine.kinds[2], "a delta")
    need(asked <= listed and set(came[LINK_FIRST]) == asked, "pages asked for")
    need(set(pushed) | asked == listed, "pages missing")
    want = (folder / "session").read_text().split()
    need(want == ["ram", f"{xxh3(machine.ram):016x}"], "the memory")
    print(f"link: {len(listed)} pages missing, {len(asked)} asked for, {len(pushed)} pushed; "
          f"{machine.kinds[0]} zero, {machine.kinds[1]} raw")


# ---- saved images --------------------------------------------------------------------------

IMAGE, DISK, INDEX, TAIL = 32, 33, 34, 35


def hkdf(key, salt, info, size):
    """RFC 5869, SHA-256."""
    secret, out, block, n = hmac.digest(salt, key, "sha256"), b"", b"", 1
    while len(out) < size:
        block = hmac.digest(secret, block + info + bytes([n]), "sha256")
        out, n = out + block, n + 1
    return out[:size]


def gcm_open(key, nonce, extra, data, tag):
    """AES-256-GCM by libcrypto."""
    lib = ctypes.CDLL("libcrypto.so.3")
    lib.EVP_CIPHER_CTX_new.restype = lib.EVP_aes_256_gcm.restype = ctypes.c_void_p
    context, n = ctypes.c_void_p(lib.EVP_CIPHER_CTX_new()), ctypes.c_int()
    out, set_tag = ctypes.create_string_buffer(len(data)), 0x11
    ok = (lib.EVP_DecryptInit_ex(context, ctypes.c_void_p(lib.EVP_aes_256_gcm()), None, key, nonce)
          and lib.EVP_DecryptUpdate(context, None, ctypes.byref(n), extra, len(extra))
          and lib.EVP_DecryptUpdate(context, out, ctypes.byref(n), data, len(data))
          and lib.EVP_CIPHER_CTX_ctrl(context, set_tag, 16, tag)
          and lib.EVP_DecryptFinal_ex(context, out, ctypes.byref(n)))
    lib.EVP_CIPHER_CTX_free(context)
    need(ok, "a chunk that is not authentic")
    return out.raw


def chunks_open(header, body, key):
    (size,) = struct.unpack_from("<I", header, 12)
    derived = hkdf(key, header[16:32], b"pollux image 1", 48)
    need(derived[32:] == header[32:48], "another key")
    out, count = b"", -(-len(body) // (size + 16))
    for i in range(count):
        chunk = body[i * (size + 16):(i + 1) * (size + 16)]
        nonce = struct.pack("<QI", i, i == count - 1)
        out += gcm_open(derived[:32], nonce, header, chunk[:-16], chunk[-16:])
    return out


def texts(payload, at, count):
    for _ in range(count):
        (size,) = struct.unpack_from("<I", payload, at)
        yield payload[at + 4:at + 4 + size].decode()
        at += 4 + size
    need(at == len(payload), "octets after a record's texts")


def index_check(payload, where, named):
    runs, zero = struct.unpack_from("<II", payload)
    need(runs and not zero and len(payload) == 8 + 24 * runs, "length of INDEX")
    for i in range(runs):
        first, count, offset = struct.unpack_from("<QQQ", payload, 8 + 24 * i)
        need(count and not named or first > max(named, default=-1), "order of INDEX")
        for page in range(first, first + count):
            need(where.get(page) == offset, f"page {page} in INDEX")
            named.add(page)


def image_rows(data):
    at = 0
    for kind, payload in records(data):
        yield at, kind, payload
        at += 8 + len(payload)


def image_decode(path, want, key):
    data = pathlib.Path(path).read_bytes()
    header, row = data[:64], data[64:]
    magic, version, flags = struct.unpack_from("<8sHH", header)
    need(magic == b"PLXIMG\r\n" and version == 1 and flags in (0, 1), "header")
    need(struct.unpack_from("<Q", header, 56)[0] == xxh3(header[:56]), "checksum of the header")
    if flags:
        row = chunks_open(header, row, bytes.fromhex(key))
    rows = image_rows(row)
    _, kind, payload = next(rows)
    pages, _term, _when, _vcpus, _cpu, disks, zero = struct.unpack_from("<QQQIIII", payload)
    need(kind == IMAGE and not zero, "first record")
    name, identity, *_ = texts(payload, 40, 6)
    machine, where, named, at, marks = Machine(pages, 1, []), {}, set(), 0, {}
    sums, chain = [0, 0, 0, 0], 0
    for at, kind, payload in rows:
        marks.setdefault(kind, at)
        if kind == DISK:
            need(len(list(texts(payload, 12, 1))[0]) > 0, "path of a disk")
            disks -= 1
        elif kind == PAGES:
            seen = set()
            count, checksum = machine.batch(1, 1, payload, seen)
            where.update((page, at) for page in seen)
            sums[0] += 1
            sums[1] += count
            chain = xxh3(struct.pack("<Q", checksum), chain)
        elif kind == STATE:
            need(payload[8:12] == b"PLXS", "machine state")
            sums[3] += 1
            chain = xxh3(struct.pack("<Q", xxh3(payload[8:])), chain)
        elif kind == END:
            need(struct.unpack("<QQQQQQ", payload) == (1, *sums, chain), "end of the epoch")
        elif kind == INDEX:
            index_check(payload, where, named)
        elif kind != TAIL:
            need(kind == BEGIN and payload == struct.pack("<Q", 1), f"type {kind}")
    need(kind == TAIL and not disks and named == set(where), "index or disks")
    head, state, index, tail, _runs, count, head_hash, rest_hash, own = struct.unpack(
        "<QQQQQQQQQ", payload)
    need((head, state, tail, count) == (marks[BEGIN], marks[STATE], at, len(where)), "last record")
    need(index == marks.get(INDEX, tail) and own == xxh3(payload[:64]), "last record")
    need(head_hash == xxh3(row[:head]) and rest_hash == xxh3(row[state:tail]), "last record's hashes")
    need(f"{xxh3(machine.ram):016x}" == want, "the memory")
    print(f"image of {name} ({identity}): {count} of {pages} pages, {len(data)} octets")


def main():
    try:
        if sys.argv[1] == "--image":
            image_decode(sys.argv[2], sys.argv[3], "".join(sys.argv[4:5]))
        elif sys.argv[1] == "--link":
            link_decode(pathlib.Path(sys.argv[2]))
        else:
            decode(pathlib.Path(sys.argv[1]))
    except (Wrong, struct.error, zlib.error, OSError) as e:
        sys.exit(f"decode.py: {e}")


if __name__ == "__main__":
    main()
