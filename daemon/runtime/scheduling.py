"""CPU scheduler, I/O priority and execution domain of a process (config.md, config-linux.md)."""

from __future__ import annotations

from daemon.runtime import syscalls as sc
from daemon.runtime.errors import SpecError
from daemon.runtime.spec import get_int, get_object, get_string, get_strings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from daemon.runtime.spec import Object

_DOMAINS = {"LINUX": 0x0000, "LINUX32": 0x0008}
_FLAGS = {
    "SCHED_FLAG_DL_OVERRUN": 0x04,
    "SCHED_FLAG_KEEP_PARAMS": 0x10,
    "SCHED_FLAG_KEEP_POLICY": 0x08,
    "SCHED_FLAG_RECLAIM": 0x02,
    "SCHED_FLAG_RESET_ON_FORK": 0x01,
    "SCHED_FLAG_UTIL_CLAMP_MAX": 0x40,
    "SCHED_FLAG_UTIL_CLAMP_MIN": 0x20,
}
_IO_CLASSES = {"IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3, "IOPRIO_CLASS_RT": 1}
_IOPRIO_WHO_PROCESS = 1
_POLICIES = {
    "SCHED_BATCH": 3,
    "SCHED_DEADLINE": 6,
    "SCHED_FIFO": 1,
    "SCHED_IDLE": 5,
    "SCHED_ISO": 4,
    "SCHED_OTHER": 0,
    "SCHED_RR": 2,
}


class Scheduling:
    __slots__ = ("attributes", "domain", "io_priority")

    def __init__(self, attributes: bytes, io_priority: int, domain: int | None) -> None:
        self.attributes, self.io_priority, self.domain = attributes, io_priority, domain

    def apply(self) -> None:
        if self.attributes:
            sc.sched_setattr(0, self.attributes)
        if self.io_priority:
            sc.ioprio_set(_IOPRIO_WHO_PROCESS, 0, self.io_priority)
        if self.domain is not None:
            sc.personality(self.domain)


def plan(process: Object, linux: Object, field: str) -> Scheduling | None:
    scheduler, io_priority = process.get("scheduler"), process.get("ioPriority")
    personality = linux.get("personality")
    if scheduler is None and io_priority is None and personality is None:
        return None
    return Scheduling(
        _attributes(process, f"{field}.scheduler") if scheduler is not None else b"",
        _io_priority(process, f"{field}.ioPriority") if io_priority is not None else 0,
        _domain(linux) if personality is not None else None,
    )


def _attributes(process: Object, field: str) -> bytes:
    """`struct sched_attr`, first version (sched_setattr(2))."""
    scheduler = get_object(process, "scheduler", field)
    policy = _POLICIES.get(get_string(scheduler, "policy", f"{field}.policy"))
    if policy is None:
        raise SpecError(f"{field}.policy", f"must be one of {', '.join(_POLICIES)}")
    flags = 0
    for name in get_strings(scheduler, "flags", f"{field}.flags"):
        if name not in _FLAGS:
            raise SpecError(f"{field}.flags", f"{name!r} is not one of {', '.join(_FLAGS)}")
        flags |= _FLAGS[name]
    bound = (1 << 63) - 1
    nice = get_int(scheduler, "nice", f"{field}.nice", default=0, low=-20, high=19)
    priority = get_int(scheduler, "priority", f"{field}.priority", default=0, high=99)
    times = [
        get_int(scheduler, key, f"{field}.{key}", default=0, high=bound)
        for key in ("runtime", "deadline", "period")
    ]
    words = [
        (48, 4),
        (policy, 4),
        (flags, 8),
        (nice & 0xFFFFFFFF, 4),
        (priority, 4),
        *((time, 8) for time in times),
    ]
    return b"".join(value.to_bytes(size, "little") for value, size in words)


def _io_priority(process: Object, field: str) -> int:
    entry = get_object(process, "ioPriority", field)
    kind = _IO_CLASSES.get(get_string(entry, "class", f"{field}.class"))
    if kind is None:
        raise SpecError(f"{field}.class", f"must be one of {', '.join(_IO_CLASSES)}")
    return kind << 13 | get_int(entry, "priority", f"{field}.priority", default=0, high=7)


def _domain(linux: Object) -> int:
    entry = get_object(linux, "personality", "linux.personality")
    name = get_string(entry, "domain", "linux.personality.domain")
    if name not in _DOMAINS:
        raise SpecError("linux.personality.domain", f"must be one of {', '.join(_DOMAINS)}, not {name!r}")
    if entry.get("flags"):
        raise SpecError("linux.personality.flags", "are not supported")
    return _DOMAINS[name]
