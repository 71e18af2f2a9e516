# SPDX-License-Identifier: Apache-2.0
"""Reads a core file of a guest as docs/core-dump.md has it, with nothing of Pollux in it."""
import os
import struct

PT_LOAD, PT_NOTE, ET_CORE, EM_X86_64 = 1, 4, 4, 62
REGISTERS = ("r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp "
             "ss fs_base gs_base ds es fs gs").split()
QEMU_REGISTERS = ("rax rbx rcx rdx rsi rdi rsp rbp r8 r9 r10 r11 r12 r13 r14 r15 rip "
                  "eflags").split()
QEMU_SEGMENTS = "cs ds es fs gs ss ldt tr gdt idt".split()


def padded(n):
    return (n + 3) & ~3


class Core:
    def __init__(self, path):
        self.file = open(path, "rb")
        self.blocks = os.stat(path).st_blocks * 512
        self.size = os.stat(path).st_size
        head = self.file.read(64)
        assert head[:7] == b"\x7fELF\x02\x01\x01", head[:16]
        kind, machine, _, _, phoff, shoff, _, _, phentsize, phnum, _, _, _ = struct.unpack(
            "<HHIQQQIHHHHHH", head[16:])
        assert (kind, machine, phentsize) == (ET_CORE, EM_X86_64, 56)
        if phnum == 0xffff:
            phnum = struct.unpack("<I", self.at(shoff + 44, 4))[0]
        table = self.at(phoff, phnum * 56)
        headers = [struct.unpack_from("<IIQQQQQQ", table, 56 * i) for i in range(phnum)]
        self.loads = [(va, pa, off, n) for kind, _, off, va, pa, n, _, _ in headers
                      if kind == PT_LOAD]
        assert all(off + n <= self.size for _, _, off, n in self.loads)
        (notes,) = [(h[2], h[5]) for h in headers if h[0] == PT_NOTE]
        self.notes = list(self.notes_of(self.at(*notes)))
        threads = [d for name, kind, d in self.notes if (name, kind) == (b"CORE", 1)]
        self.cpus = [self.thread(i, d) for i, d in enumerate(threads)]
        self.fpregs = [d for name, kind, d in self.notes if (name, kind) == (b"CORE", 2)]
        machine = [self.qemu(d) for name, kind, d in self.notes if (name, kind) == (b"QEMU", 0)]
        assert len(machine) == len(self.cpus)
        self.machine = machine

    def at(self, offset, n):
        self.file.seek(offset)
        data = self.file.read(n)
        assert len(data) == n, (offset, n)
        return data

    @staticmethod
    def notes_of(data):
        at = 0
        while at < len(data):
            name_size, size, kind = struct.unpack_from("<III", data, at)
            at += 12
            name = data[at:at + name_size]
            assert name.endswith(b"\0")
            at += padded(name_size)
            assert at + size <= len(data)
            yield name[:-1], kind, data[at:at + size]
            at += padded(size)

    @staticmethod
    def thread(i, data):
        assert len(data) == 336
        assert struct.unpack_from("<I", data, 32) == (i + 1,)
        return dict(zip(REGISTERS, struct.unpack_from("<27Q", data, 112)))

    @staticmethod
    def qemu(data):
        assert len(data) == 440 and struct.unpack_from("<II", data) == (1, 440)
        out = dict(zip(QEMU_REGISTERS, struct.unpack_from("<18Q", data, 8)))
        for i, name in enumerate(QEMU_SEGMENTS):
            selector, limit, flags, _, base = struct.unpack_from("<IIIIQ", data, 152 + 24 * i)
            out[name] = {"selector": selector, "limit": limit, "flags": flags, "base": base}
        out["cr"] = struct.unpack_from("<5Q", data, 392)
        out["kernel_gs_base"] = struct.unpack_from("<Q", data, 432)[0]
        return out

    def read(self, address, n, physical=False):
        """Through the segments, across their borders."""
        out = b""
        while len(out) < n:
            here = address + len(out)
            for va, pa, off, size in self.loads:
                start = pa if physical else va
                if start <= here < start + size:
                    out += self.at(off + here - start, min(n - len(out), start + size - here))
                    break
            else:
                raise KeyError(f"{here:#x} is not in the core")
        return out

    def word(self, address, physical=False):
        return struct.unpack("<Q", self.read(address, 8, physical))[0]

    def check_registers(self):
        """Each vCPU is described twice."""
        for thread, machine in zip(self.cpus, self.machine):
            for name in QEMU_REGISTERS:
                assert thread[name] == machine[name], name
            for name in ("cs", "ds", "es", "fs", "gs", "ss"):
                assert thread[name] == machine[name]["selector"], name
            assert thread["fs_base"] == machine["fs"]["base"]
            assert thread["gs_base"] == machine["gs"]["base"]
