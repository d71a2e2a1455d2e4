"""Seccomp: the OCI `linux.seccomp` object to a BPF program, by libseccomp, once per profile.

libseccomp is called in the parent only; the child installs finished bytes. A program is kept in memory under
the hash of its profile, and on disk for `pyd-oci` (see `use_cache_directory`), since compiling Docker's
default profile takes some 10 ms, a third of a whole start.

Like runc, programs get a prologue that answers ENOSYS for system calls newer than any the profile knows:
a C library that probes for a new call falls back only on ENOSYS, never on EPERM.
"""

from __future__ import annotations

import marshal
import os
from _blake2 import blake2b

from daemon.runtime import syscalls as sc
from daemon.runtime.errors import SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from daemon.runtime.spec import Object

_INSTRUCTION = 8  # bytes of struct sock_filter
_VERSION = b"3"  # of what compiling makes of a profile; part of the hash
_EINVAL = 22
FLAGS = {
    "SECCOMP_FILTER_FLAG_LOG": 2,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 4,
    "SECCOMP_FILTER_FLAG_TSYNC": 0,  # one thread here: nothing to synchronise
}
_SPEC_ALLOW = FLAGS["SECCOMP_FILTER_FLAG_SPEC_ALLOW"]


class Program:
    """A BPF program ready to be installed."""

    __slots__ = ("code", "count", "flags")

    def __init__(self, code: bytes, flags: int) -> None:
        self.code = sc.CodeBuffer(code)
        self.count = len(code) // _INSTRUCTION
        self.flags = flags

    def __reduce__(self) -> tuple[type[Program], tuple[bytes, int]]:
        return Program, (self.code.code, self.flags)  # to a spare (spare.py)

    def install(self) -> None:
        try:
            sc.seccomp_set_filter(self.flags, self.count, self.code.address)
        except OSError as error:
            if error.errno != _EINVAL or not self.flags:
                raise
            sc.seccomp_set_filter(0, self.count, self.code.address)  # kernels before 4.17


_programs: dict[bytes, Program] = {}
_directory: str | None = None


def use_cache_directory(path: str) -> None:
    """Keep compiled programs in `path` too: a directory that only root can write to."""
    global _directory
    _directory = path


def program(profile: Object) -> Program | None:
    """The program for `linux.seccomp`; None when the profile allows everything without rules."""
    if profile.get("defaultAction") == "SCMP_ACT_ALLOW" and not profile.get("syscalls"):
        return None
    key = _hash(profile)
    known = _programs.get(key)
    if known is None:
        flags = _flags(profile)
        code = _load(key)
        if code is None:
            from daemon.runtime import seccomp_compile  # libseccomp is not loaded when the cache has it

            code = seccomp_compile.compile_profile(profile)
            _save(key, code)
        known = _programs[key] = Program(code, flags)
    return known


def _hash(profile: Object) -> bytes:
    """Of the profile as it was parsed: marshal's version 2 is a function of the value alone."""
    try:
        text = marshal.dumps(profile, 2)
    except ValueError as error:
        raise SpecError("linux.seccomp", str(error)) from None
    machine = os.uname().machine.encode()
    return blake2b(_VERSION + machine + text, digest_size=20).digest()


def _flags(profile: Object) -> int:
    names = profile.get("flags")
    if names is None:
        return _SPEC_ALLOW  # runc's default: no speculation mitigations beyond what the process asks for
    flags = 0
    for name in names:
        if name not in FLAGS:
            raise SpecError("linux.seccomp.flags", f"{name!r} is not supported")
        flags |= FLAGS[name]
    return flags


def _load(key: bytes) -> bytes | None:
    if _directory is None:
        return None
    try:
        with open(f"{_directory}/{key.hex()}.bpf", "rb") as file:
            code = file.read()
    except OSError:
        return None
    return code if code and len(code) % _INSTRUCTION == 0 else None


def _save(key: bytes, code: bytes) -> None:
    """Best effort: without the cache every start compiles."""
    if _directory is None:
        return
    path = f"{_directory}/{key.hex()}"
    try:
        os.makedirs(_directory, 0o700, exist_ok=True)
        aside = f"{path}.{os.getpid()}"
        with open(aside, "wb") as file:
            file.write(code)
        os.rename(aside, f"{path}.bpf")
    except OSError:
        pass
