"""Capability sets: names to bit masks, and applying them to the calling thread (capabilities(7))."""

from __future__ import annotations

from daemon.runtime import syscalls
from daemon.runtime.spec import get_object, get_strings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from daemon.runtime.spec import Object

# In the order of their numbers in <linux/capability.h>.
NAMES = (
    *("CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP"),
    *(
        "LINUX_IMMUTABLE",
        "NET_BIND_SERVICE",
        "NET_BROADCAST",
        "NET_ADMIN",
        "NET_RAW",
        "IPC_LOCK",
        "IPC_OWNER",
    ),
    *(
        "SYS_MODULE",
        "SYS_RAWIO",
        "SYS_CHROOT",
        "SYS_PTRACE",
        "SYS_PACCT",
        "SYS_ADMIN",
        "SYS_BOOT",
        "SYS_NICE",
    ),
    *(
        "SYS_RESOURCE",
        "SYS_TIME",
        "SYS_TTY_CONFIG",
        "MKNOD",
        "LEASE",
        "AUDIT_WRITE",
        "AUDIT_CONTROL",
        "SETFCAP",
    ),
    *("MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF"),
    "CHECKPOINT_RESTORE",
)
NUMBERS = {f"CAP_{name}": number for number, name in enumerate(NAMES)}


def last_capability() -> int:
    """The highest capability number this kernel knows."""
    with open("/proc/sys/kernel/cap_last_cap", "rb") as file:
        return int(file.read())


class Capabilities:
    """The five sets as bit masks; a capability unknown to the kernel or to pyd is ignored, as runc does."""

    __slots__ = ("ambient", "bounding", "effective", "inheritable", "last", "permitted")

    def __init__(self, sets: Object, field: str, last: int) -> None:
        self.last = last
        self.bounding = self._mask(sets, "bounding", field)
        self.effective = self._mask(sets, "effective", field)
        self.permitted = self._mask(sets, "permitted", field)
        self.inheritable = self._mask(sets, "inheritable", field)
        # The kernel demands ambient to be within permitted and inheritable; runc skips what is not.
        self.ambient = self._mask(sets, "ambient", field) & self.permitted & self.inheritable

    def _mask(self, sets: Object, key: str, field: str) -> int:
        mask = 0
        for name in get_strings(sets, key, f"{field}.{key}"):
            number = NUMBERS.get(name, 64)
            if number <= self.last:
                mask |= 1 << number
        return mask

    def drop_bounding(self) -> None:
        """Needs CAP_SETPCAP, so it comes before `apply` and before the change of user."""
        for number in range(self.last + 1):
            if not self.bounding >> number & 1:
                syscalls.prctl(syscalls.PR_CAPBSET_DROP, number)

    def apply(self) -> None:
        """Set the remaining sets; the process must have kept its permitted set (PR_SET_KEEPCAPS)."""
        syscalls.capset(self.effective, self.permitted, self.inheritable)
        syscalls.prctl(syscalls.PR_CAP_AMBIENT, syscalls.PR_CAP_AMBIENT_CLEAR_ALL)
        for number in range(self.last + 1):
            if self.ambient >> number & 1:
                syscalls.prctl(syscalls.PR_CAP_AMBIENT, syscalls.PR_CAP_AMBIENT_RAISE, number)

    def describe(self) -> str:
        names = [name for name, number in NUMBERS.items() if self.bounding >> number & 1]
        return f"limit capabilities to {' '.join(names) or 'none'}"


def plan(process: Object, field: str) -> Capabilities | None:
    """None when the specification has no `capabilities`: all are kept, as runc does."""
    if process.get("capabilities") is None:
        return None
    return Capabilities(
        get_object(process, "capabilities", f"{field}.capabilities"),
        f"{field}.capabilities",
        last_capability(),
    )
