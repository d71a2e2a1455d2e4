"""Compiling a seccomp profile with libseccomp.so.2 (seccomp_init(3), seccomp_rule_add(3))."""

from __future__ import annotations

import os
from _ctypes import FUNCFLAG_CDECL, CFuncPtr, dlopen, dlsym

from daemon.runtime.errors import SpecError
from daemon.runtime.spec import get_int, get_list, get_objects, get_string, get_strings
from daemon.runtime.syscalls import _Int, _Long, malloc_trim

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from daemon.runtime.spec import Object

ACTIONS = {
    "SCMP_ACT_ALLOW": 0x7FFF0000,
    "SCMP_ACT_ERRNO": 0x00050000,
    "SCMP_ACT_KILL": 0x00000000,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_KILL_THREAD": 0x00000000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_TRAP": 0x00030000,
}
_WITH_VALUE = {"SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"}
_ALLOWING = {"SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE"}
COMPARISONS = {
    "SCMP_CMP_EQ": 4,
    "SCMP_CMP_GE": 5,
    "SCMP_CMP_GT": 6,
    "SCMP_CMP_LE": 3,
    "SCMP_CMP_LT": 2,
    "SCMP_CMP_MASKED_EQ": 7,
    "SCMP_CMP_NE": 1,
}
# SCMP_ARCH_* -> (libseccomp's name, AUDIT_ARCH_* as the kernel reports it).
ARCHITECTURES = {
    "SCMP_ARCH_AARCH64": ("aarch64", 0xC00000B7),
    "SCMP_ARCH_ARM": ("arm", 0x40000028),
    "SCMP_ARCH_X32": ("x32", 0xC000003E),
    "SCMP_ARCH_X86": ("x86", 0x40000003),
    "SCMP_ARCH_X86_64": ("x86_64", 0xC000003E),
}
_NATIVE = {"aarch64": "SCMP_ARCH_AARCH64", "x86_64": "SCMP_ARCH_X86_64"}
# SCMP_FLTATR_CTL_OPTIMIZE: a tree of comparisons instead of a chain. The kernel runs a new filter over every call
# number once (its cache of always-allowed calls), which takes 0.8 ms of each start with a chain and 0.3 with a tree.
_OPTIMIZE, _BINARY_TREE = 8, 2
_X32_BIT = 0x40000000
_EDOM, _EEXIST, _EFAULT, _EPERM, _ENOSYS = 33, 17, 14, 1, 38


class _Pointer(CFuncPtr):
    """A C function that returns an address."""

    _flags_ = FUNCFLAG_CDECL
    _restype_ = _Long


class _Function(CFuncPtr):
    """A C function that returns int (or uint32_t, which is passed on as it came)."""

    _flags_ = FUNCFLAG_CDECL
    _restype_ = _Int


class _Library:
    def __init__(self) -> None:
        try:
            handle = dlopen("libseccomp.so.2", os.RTLD_NOW)
        except OSError as error:
            raise SpecError("linux.seccomp", f"libseccomp is not installed ({error})") from None
        for name in (
            "seccomp_arch_add", "seccomp_arch_resolve_name",
            "seccomp_attr_set", "seccomp_export_bpf", "seccomp_release",
            "seccomp_rule_add_array", "seccomp_syscall_resolve_name", "seccomp_syscall_resolve_name_arch",
        ):  # fmt: skip
            setattr(self, name.removeprefix("seccomp_"), _Function(dlsym(handle, name)))
        self.init = _Pointer(dlsym(handle, "seccomp_init"))

    attr_set: Any
    arch_add: Any
    arch_resolve_name: Any
    export_bpf: Any
    init: Any
    release: Any
    rule_add_array: Any
    syscall_resolve_name: Any
    syscall_resolve_name_arch: Any


_library: _Library | None = None


def compile_profile(profile: Object) -> bytes:
    """The BPF program, as bytes of `struct sock_filter`."""
    global _library
    library = _library = _library or _Library()
    default = _action(profile, "defaultAction", "defaultErrnoRet", "linux.seccomp")
    filter_ = _Long(library.init(_Long(default)))
    if not filter_.value:
        raise SpecError("linux.seccomp.defaultAction", "is refused by libseccomp")
    try:
        architectures = _add_architectures(library, filter_, profile)
        for index, rule in enumerate(get_objects(profile, "syscalls", "linux.seccomp.syscalls")):
            _add_rule(library, filter_, rule, default, f"linux.seccomp.syscalls[{index}]")
        library.attr_set(filter_, _OPTIMIZE, _BINARY_TREE)  # libseccomp before 2.5 cannot; linear then
        code = _export(library, filter_)
    finally:
        library.release(filter_)
        malloc_trim()  # what libseccomp needed is 1 MB, which the supervisor would keep
    if profile["defaultAction"] in _ALLOWING or profile.get("defaultErrnoRet") == _ENOSYS:
        return code
    return _unknown_calls(library, profile, architectures) + code


def _action(entry: Object, key: str, value_key: str, field: str) -> int:
    name = get_string(entry, key, f"{field}.{key}")
    if name == "SCMP_ACT_NOTIFY":
        raise SpecError(f"{field}.{key}", "SCMP_ACT_NOTIFY (a listener in user space) is not supported")
    if name not in ACTIONS:
        raise SpecError(f"{field}.{key}", f"{name!r} is not a seccomp action")
    if name in _WITH_VALUE:
        return ACTIONS[name] | get_int(entry, value_key, f"{field}.{value_key}", default=_EPERM, high=0xFFFF)
    return ACTIONS[name]


def _add_architectures(library: _Library, filter_: Any, profile: Object) -> list[str]:
    """Add those of the profile to the machine's own, which libseccomp always starts with."""
    native = _NATIVE.get(os.uname().machine, "SCMP_ARCH_X86_64")
    names = [native]
    for name in get_strings(profile, "architectures", "linux.seccomp.architectures"):
        if name not in ARCHITECTURES:
            continue  # another machine's: Docker lists them all in some profiles
        if name in names:
            continue
        token = library.arch_resolve_name(ARCHITECTURES[name][0].encode())
        result = library.arch_add(filter_, token)
        if result == 0:
            names.append(name)
        elif -result not in (_EEXIST, _EDOM):
            raise SpecError("linux.seccomp.architectures", f"libseccomp refuses {name} (error {-result})")
    return names


def _add_rule(library: _Library, filter_: Any, rule: Object, default: int, field: str) -> None:
    action = _action(rule, "action", "errnoRet", field)
    if action == default:
        return  # libseccomp calls this an error; it changes nothing
    conditions = [
        _condition(entry, f"{field}.args[{index}]")
        for index, entry in enumerate(get_objects(rule, "args", f"{field}.args"))
    ]
    # One rule may compare each argument once; several comparisons of one argument are alternatives.
    indices = [condition[0] for condition in conditions]
    groups = [[condition] for condition in conditions] if len(set(indices)) < len(indices) else [conditions]
    for name in get_strings(rule, "names", f"{field}.names"):
        number = library.syscall_resolve_name(name.encode())
        if number == -1:
            continue  # unknown to this libseccomp: the default action (or ENOSYS) applies
        for group in groups:
            packed = b"".join(condition[1] for condition in group)
            result = library.rule_add_array(filter_, _Long(action), number, len(group), packed or None)
            if result < 0 and -result not in (_EEXIST, _EDOM):
                raise SpecError(field, f"libseccomp refuses the rule for {name} (error {-result})")


def _condition(entry: Object, field: str) -> tuple[int, bytes]:
    """(argument number, `struct scmp_arg_cmp`)."""
    index = get_int(entry, "index", f"{field}.index", high=5)
    comparison = COMPARISONS.get(get_string(entry, "op", f"{field}.op"))
    if comparison is None:
        raise SpecError(f"{field}.op", f"must be one of {', '.join(COMPARISONS)}")
    high = (1 << 64) - 1
    value = get_int(entry, "value", f"{field}.value", high=high)
    second = get_int(entry, "valueTwo", f"{field}.valueTwo", default=0, high=high)
    words = ((index, 4), (comparison, 4), (value, 8), (second, 8))
    return index, b"".join(word.to_bytes(size, "little") for word, size in words)


def _export(library: _Library, filter_: Any) -> bytes:
    memory = os.memfd_create("seccomp", os.MFD_CLOEXEC)
    try:
        result = library.export_bpf(filter_, memory)
        if result < 0:
            raise SpecError("linux.seccomp", f"libseccomp cannot compile the profile (error {-result})")
        return os.pread(memory, os.fstat(memory).st_size, 0)
    finally:
        os.close(memory)


# -- the ENOSYS prologue ---------------------------------------------------------------------------

_LOAD, _JEQ, _JGT, _JGE, _RETURN = 0x20, 0x15, 0x25, 0x35, 0x06


def _unknown_calls(library: _Library, profile: Object, architectures: list[str]) -> bytes:
    """BPF that returns ENOSYS above each architecture's highest known call and otherwise falls through."""
    names = {
        name
        for rule in get_objects(profile, "syscalls", "linux.seccomp.syscalls")
        for name in get_list(rule, "names", "linux.seccomp.syscalls.names")
    }
    highest = {name: _highest(library, name, names) for name in architectures}
    blocks = []
    for name in architectures:
        if name == "SCMP_ARCH_X32" and "SCMP_ARCH_X86_64" in architectures:
            continue  # the same AUDIT_ARCH; told apart by a bit of the number, in x86_64's block
        limits = [highest[name]]
        if name == "SCMP_ARCH_X86_64":
            limits.append(highest.get("SCMP_ARCH_X32", -1))
        blocks.append(_block(ARCHITECTURES[name][1], limits))
    return _statement(_LOAD, 4) + b"".join(blocks)


def _highest(library: _Library, architecture: str, names: set[str]) -> int:
    token = library.arch_resolve_name(ARCHITECTURES[architecture][0].encode())
    numbers: list[int] = [library.syscall_resolve_name_arch(token, name.encode()) for name in names]
    return max(numbers)


def _block(audit: int, limits: list[int]) -> bytes:
    """Entered with the architecture loaded; leaves with it loaded unless it was this one."""
    enosys = _statement(_RETURN, ACTIONS["SCMP_ACT_ERRNO"] | _ENOSYS)
    if len(limits) == 1 or limits[1] < 0:
        body = _statement(_LOAD, 0) + _statement(_JGT, limits[0], 0, 1) + enosys
    else:
        x32 = limits[1] & ~_X32_BIT | _X32_BIT
        body = (
            _statement(_LOAD, 0)
            + _statement(_JGE, _X32_BIT, 0, 1)  # x32: the next test; otherwise the one after it
            + _statement(_JGT, x32, 1, 2)
            + _statement(_JGT, limits[0], 0, 1)
            + enosys
        )
    # Restore the architecture for the next block; a match of ours cannot match there.
    body += _statement(_LOAD, 4)
    return _statement(_JEQ, audit, 0, len(body) // 8) + body


def _statement(code: int, value: int, true: int = 0, false: int = 0) -> bytes:
    """One `struct sock_filter`."""
    return code.to_bytes(2, "little") + bytes((true, false)) + (value & 0xFFFFFFFF).to_bytes(4, "little")
