"""The compiled filters: what they answer for every call, run by a small BPF machine instead of the kernel's."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

from daemon.runtime import seccomp, seccomp_compile
from daemon.runtime.capabilities import NUMBERS
from daemon.runtime.defaults import CAPABILITIES
from daemon.runtime.errors import SpecError
from daemon.runtime.seccomp_default import default_seccomp

ALLOW, ENOSYS, EPERM = 0x7FFF0000, 0x50026, 0x50001
X86_64, I386, AARCH64 = 0xC000003E, 0x40000003, 0xC00000B7
CLONE_NEWUSER = 0x10000000


def answer(code: bytes, architecture: int, number: int, arguments: tuple[int, ...] = ()) -> int:
    """Run a filter (classic BPF as seccomp restricts it, seccomp(2)) on one call."""
    padded = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
    data = struct.pack(
        "<iIQ6Q", number - (1 << 32) if number >= 1 << 31 else number, architecture, 0, *padded
    )
    instructions = list(struct.iter_unpack("<HBBI", code))
    register = at = 0
    while True:
        kind, true, false, value = instructions[at]
        at += 1
        if kind == 0x20:
            register = struct.unpack_from("<I", data, value)[0]
        elif kind == 0x06:
            return int(value)
        elif kind == 0x05:
            at += value
        elif kind == 0x54:
            register &= value
        else:
            holds = {0x15: register == value, 0x25: register > value, 0x35: register >= value}[kind]
            at += true if holds else false


def compiled(profile: dict[str, Any], monkeypatch: pytest.MonkeyPatch | None = None) -> bytes:
    if monkeypatch is not None:  # libseccomp's level 1: a plain chain of comparisons
        monkeypatch.setattr(seccomp_compile, "_BINARY_TREE", 1)
    return seccomp_compile.compile_profile(profile)


@pytest.mark.parametrize(
    "capabilities", [set(CAPABILITIES), set(NUMBERS), set()], ids=["docker", "all", "none"]
)
def test_tree_answers_as_the_chain_does(capabilities: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    profile = default_seccomp(capabilities, "x86_64")
    tree = compiled(profile)
    chain = compiled(profile, monkeypatch)
    assert tree != chain
    interesting = [
        (),
        (40,),
        (8,),
        (0x20000,),
        (0x20008,),
        (0xFFFFFFFF,),
        (CLONE_NEWUSER,),
        (0x7E020000,),
        (1 << 32,),
    ]
    for architecture in (X86_64, I386, AARCH64):
        for number in (*range(480), *range(0x40000000, 0x40000000 + 560), 1 << 31, 0xFFFFFFFF):
            for arguments in interesting if number in (41, 45, 56, 102, 120, 135, 136) else interesting[:1]:
                assert answer(tree, architecture, number, arguments) == answer(
                    chain, architecture, number, arguments
                )


def test_default_profile_on_x86_64() -> None:
    code = compiled(default_seccomp(set(CAPABILITIES), "x86_64"))
    assert answer(code, X86_64, 0) == ALLOW  # read
    assert answer(code, X86_64, 165) == EPERM  # mount
    assert answer(code, X86_64, 161) == ALLOW  # chroot, by CAP_SYS_CHROOT
    assert answer(code, X86_64, 41, (2,)) == ALLOW  # socket(AF_INET)
    assert answer(code, X86_64, 41, (40,)) == EPERM  # socket(AF_VSOCK)
    assert answer(code, X86_64, 56, (0x11,)) == ALLOW  # clone: a process
    assert answer(code, X86_64, 56, (CLONE_NEWUSER,)) == EPERM
    assert answer(code, X86_64, 435) == ENOSYS  # clone3
    assert answer(code, X86_64, 135, (8,)) == ALLOW  # personality(PER_LINUX32)
    assert answer(code, X86_64, 135, (0x40000,)) == EPERM  # ADDR_NO_RANDOMIZE
    assert answer(code, X86_64, 9999) == ENOSYS
    assert answer(code, I386, 9999) == ENOSYS
    assert answer(code, X86_64, 0x40000000 + 9999) == ENOSYS
    assert answer(code, I386, 21) == EPERM  # mount
    assert answer(code, I386, 3) == ALLOW  # read


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"defaultAction": "SCMP_ACT_WHAT"}, "not a seccomp action"),
        ({"syscalls": [{"names": ["read"], "action": "SCMP_ACT_NOTIFY"}]}, "SCMP_ACT_NOTIFY"),
        (
            {
                "syscalls": [
                    {
                        "names": ["read"],
                        "action": "SCMP_ACT_KILL",
                        "args": [{"index": 9, "op": "SCMP_CMP_EQ"}],
                    }
                ]
            },
            "index",
        ),
        (
            {
                "syscalls": [
                    {
                        "names": ["read"],
                        "action": "SCMP_ACT_KILL",
                        "args": [{"index": 0, "value": 0, "op": "X"}],
                    }
                ]
            },
            "op",
        ),
        ({"flags": ["SECCOMP_FILTER_FLAG_NEW_LISTENER"]}, "linux.seccomp.flags"),
    ],
)
def test_what_a_profile_may_not_say(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(SpecError, match=problem):
        seccomp.program({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["x"]}], **change})


def test_programs_are_compiled_once_and_kept_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seccomp, "_programs", {})
    monkeypatch.setattr(seccomp, "_directory", str(tmp_path / "cache"))
    profile = default_seccomp({"CAP_KILL"})
    first = seccomp.program(profile)
    assert seccomp.program(dict(profile)) is first
    monkeypatch.setattr(seccomp, "_programs", {})
    monkeypatch.setattr(seccomp_compile, "compile_profile", lambda _: pytest.fail("compiled again"))
    again = seccomp.program(profile)
    assert again is not None
    assert first is not None
    assert again.count == first.count
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700


def test_several_conditions_on_one_argument_are_alternatives() -> None:
    conditions = [{"index": 0, "value": value, "op": "SCMP_CMP_EQ"} for value in (1, 2)]
    profile = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [{"names": ["close"], "action": "SCMP_ACT_ALLOW", "args": conditions}],
    }
    code = compiled(profile)
    native = X86_64 if seccomp_compile.os.uname().machine == "x86_64" else AARCH64
    number = 3 if native == X86_64 else 57
    assert [answer(code, native, number, (value,)) for value in (1, 2, 3)] == [ALLOW, ALLOW, EPERM]
