# SPDX-License-Identifier: Apache-2.0
"""Which kernels do what: the brief set, and the long one."""
import dataclasses

from labkit.vm import DEFAULT_CMDLINE, TUNED_CMDLINE

COMPUTE = ("sh", "md5sum", "sha256sum", "gzip", "awk", "tcc")


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    kernel: str  # of labkit.kernel.KERNELS
    works: tuple
    brief: bool = False
    image: str = "vmlinux"
    cmdline: str = TUNED_CMDLINE
    vcpus: int = 1
    boots: int = 1


def all_cases():
    yield Case("cloud", "cloud", ("boot", *COMPUTE), brief=True)
    yield Case("cloud-disk", "cloud", ("fsync",), brief=True)
    yield Case("cloud-net", "cloud", ("net",), brief=True)
    yield Case("cloud-idle", "cloud", ("boot", "idle"), brief=True)
    yield Case("full", "full", ("boot", "sha256sum"), brief=True)
    yield Case("newer", "newer", ("boot", "sha256sum"), brief=True)
    for kernel in ("full", "newer"):
        yield Case(f"{kernel}-work", kernel, COMPUTE)
        yield Case(f"{kernel}-disk", kernel, ("fsync",))
        yield Case(f"{kernel}-net", kernel, ("net",))
    for kernel in ("cloud", "full", "newer"):
        yield Case(f"{kernel}-default", kernel, ("boot",), cmdline=DEFAULT_CMDLINE)
        yield Case(f"{kernel}-bzimage", kernel, ("boot",), image="vmlinuz")
        for vcpus in (2, 4):
            yield Case(f"{kernel}-smp{vcpus}", kernel, ("boot", "smp"), vcpus=vcpus,
                       brief=(kernel, vcpus) == ("cloud", 4))
    yield Case("cloud-idle-default", "cloud", ("idle",), cmdline=DEFAULT_CMDLINE)
    yield Case("cloud-idle-smp4", "cloud", ("idle",), vcpus=4)
    yield Case("newer-idle", "newer", ("idle",))
    yield Case("cloud-20-boots", "cloud", ("boot",), boots=20)
