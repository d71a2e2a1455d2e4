"""Which platforms' programs this machine runs: its own, and those that a handler of binfmt_misc emulates.

    amd64       variants v2 to v4 by the processor's flags (the psABI's levels), 386 where the kernel runs its programs
    arm64       arm as well
    emulated    handlers that are on, know an ELF header by its magic and hold their interpreter open (flag F): only
                these are there in a container, too

Source: BuildKit util/archutil, which tries a program of each; here the handlers are read instead.
"""

from __future__ import annotations

import contextlib
import functools
import os
import struct
import time
from collections.abc import Iterable
from pathlib import Path

from daemon.images.platforms import Platform, local

BINFMT = Path("/proc/sys/fs/binfmt_misc")
COMPATIBLE = Path("/proc/sys/abi/vsyscall32")
"""There in a kernel that runs programs of 386 on amd64."""
_CPU = Path("/proc/cpuinfo")
_KEPT = 20.0
"""Seconds for which what the handlers were is believed, while their names are the same (archutil.CacheMaxAge)."""
_LEVELS = (
    ("v2", "cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3"),
    ("v3", "abm avx avx2 bmi1 bmi2 f16c fma movbe xsave"),
    ("v4", "avx512bw avx512cd avx512dq avx512f avx512vl"),
)
_PROGRAMS = {
    "amd64": (2, "<", 62),
    "arm64": (2, "<", 183),
    "riscv64": (2, "<", 243),
    "ppc64": (2, ">", 21),
    "ppc64le": (2, "<", 21),
    "s390x": (2, ">", 22),
    "386": (1, "<", 3),
    "mips64le": (2, "<", 8),
    "mips64": (2, ">", 8),
    "loong64": (2, "<", 258),
    "arm": (1, "<", 40),
}
"""ELF class, byte order and machine of each architecture, in the order in which they are told."""


def supported() -> list[Platform]:
    """This machine's platform first."""
    native = local()
    names: tuple[str, ...] = ()
    with contextlib.suppress(OSError):
        names = tuple(sorted(os.listdir(BINFMT)))
    return _supported(native, names, int(time.monotonic() / _KEPT))


@functools.lru_cache(maxsize=1)
def _supported(native: Platform, names: tuple[str, ...], moment: int) -> list[Platform]:
    handlers = [_read(BINFMT / name) for name in names if name not in ("register", "status")]
    found = [native]
    runs = emulated(handlers)
    if native.architecture == "amd64":
        found += [Platform("linux", "amd64", level) for level in levels(_flags())]
        runs |= {"386"} if COMPATIBLE.exists() else set()
    runs |= {"arm"} if native.architecture == "arm64" else set()
    for architecture in _PROGRAMS:
        if architecture in runs and architecture != native.architecture:
            found.append(Platform("linux", architecture))
    if "arm" in runs or native == Platform("linux", "arm"):
        found.append(Platform("linux", "arm", "v6"))
    return found


def levels(flags: frozenset[str]) -> list[str]:
    """Variants of amd64 above the first that a processor with these flags is of."""
    found = []
    for name, needed in _LEVELS:
        if not flags.issuperset(needed.split()):
            break
        found.append(name)
    return found


def emulated(handlers: Iterable[str]) -> set[str]:
    """Architectures whose programs one of the handlers takes. A handler is what its file says of it."""
    found = set()
    for handler in handlers:
        lines = handler.splitlines()
        said = dict(line.partition(" ")[::2] for line in lines)
        if lines[:1] != ["enabled"] or "F" not in said.get("flags:", "") or said.get("offset", "0") != "0":
            continue
        with contextlib.suppress(ValueError):
            magic = bytes.fromhex(said.get("magic", ""))
            mask = bytes.fromhex(said.get("mask", "")) or b"\xff" * len(magic)
            found |= {each for each in _PROGRAMS if magic and _known(header(each), magic, mask)}
    return found


def header(architecture: str) -> bytes:
    """How a program of the architecture begins: statically linked, System V."""
    size, order, machine = _PROGRAMS[architecture]
    ident = b"\x7fELF" + bytes((size, 1 if order == "<" else 2, 1)) + bytes(9)
    return (ident + struct.pack(f"{order}HHI", 2, machine, 1)).ljust(128, b"\0")


def _known(head: bytes, magic: bytes, mask: bytes) -> bool:
    return all((one ^ other) & bits == 0 for one, other, bits in zip(head, magic, mask, strict=False))


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _flags() -> frozenset[str]:
    with contextlib.suppress(OSError), _CPU.open() as file:
        for line in file:
            if line.startswith("flags"):
                return frozenset(line.partition(":")[2].split())
    return frozenset()
