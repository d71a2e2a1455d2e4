"""A process inside a container: what it runs, as whom, with which rights; and becoming it.

`ProcessPlan` is computed before the clone. `Process steps` below run in the child, in this order; each
comes where the kernel demands it:

    limits, priorities        raising a hard limit needs rights that are dropped below
    no_new_privs, seccomp     without no_new_privs a filter needs CAP_SYS_ADMIN: it is installed first
    bounding set, user, caps  CAPBSET_DROP and setuid need rights; the sets are taken on last
    cwd, executable           looked up as the container's user, in the container's root
"""

from __future__ import annotations

import os
import resource
import stat

from daemon.runtime import capabilities, scheduling, seccomp
from daemon.runtime import syscalls as sc
from daemon.runtime.errors import EXIT_FAILED, EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND, LaunchError, SpecError
from daemon.runtime.spec import (
    get_bool,
    get_int,
    get_list,
    get_object,
    get_objects,
    get_path,
    get_string,
    get_strings,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from daemon.runtime.seccomp import Program
    from daemon.runtime.spec import Object

DEFAULT_UMASK = 0o022
_EXEC_FAILED = 255
_UNSUPPORTED = ("execCPUAffinity", "selinuxLabel")
_ESCAPE = (
    "current working directory is outside of container mount namespace root -- possible container breakout"
)


class ProcessPlan:
    """Everything about one process, checked and encoded."""

    __slots__ = (
        "apparmor", "arguments", "capabilities", "console_size", "cwd", "environment", "gid", "groups",
        "limits", "no_new_privs", "oom_score_adj", "scheduling", "seccomp", "terminal", "uid", "umask",
    )  # fmt: skip

    def __init__(self, process: Object, linux: Object, field: str = "process") -> None:
        for name in _UNSUPPORTED:
            if process.get(name):
                raise SpecError(f"{field}.{name}", "is not supported")
        self.arguments = [
            encode(value, f"{field}.args") for value in get_strings(process, "args", f"{field}.args")
        ]
        if not self.arguments:
            raise SpecError(f"{field}.args", "must name the program to run")
        self.environment = _environment(process, field)
        self.cwd = encode(get_path(process, "cwd", f"{field}.cwd"), f"{field}.cwd")
        self._read_user(get_object(process, "user", f"{field}.user"), f"{field}.user")
        self.terminal = get_bool(process, "terminal", f"{field}.terminal")
        self.console_size = _console_size(process, field) if self.terminal else None
        self.capabilities = capabilities.plan(process, field)
        self.limits = _limits(process, field)
        self.no_new_privs = get_bool(process, "noNewPrivileges", f"{field}.noNewPrivileges")
        self.oom_score_adj: int | None = None
        if process.get("oomScoreAdj") is not None:
            self.oom_score_adj = get_int(process, "oomScoreAdj", f"{field}.oomScoreAdj", low=-1000, high=1000)
        self.apparmor = _apparmor(process, field)
        self.scheduling = scheduling.plan(process, linux, field)
        self.seccomp: Program | None = None
        if linux.get("seccomp") is not None:
            self.seccomp = seccomp.program(get_object(linux, "seccomp", "linux.seccomp"))

    def _read_user(self, user: Object, field: str) -> None:
        self.uid = get_int(user, "uid", f"{field}.uid", default=0, high=0xFFFFFFFE)
        self.gid = get_int(user, "gid", f"{field}.gid", default=0, high=0xFFFFFFFE)
        self.groups = get_list(user, "additionalGids", f"{field}.additionalGids")
        for index in range(len(self.groups)):
            get_int(dict(enumerate(self.groups)), index, f"{field}.additionalGids[{index}]")  # type: ignore[arg-type]
        self.umask = get_int(user, "umask", f"{field}.umask", default=DEFAULT_UMASK, high=0o777)

    def describe(self) -> list[str]:
        lines = [f"limit {name} to {soft}:{hard}" for name, _, soft, hard in self.limits]
        if self.no_new_privs:
            lines.append("set no_new_privs")
        if self.seccomp:
            lines.append(f"install a seccomp filter of {self.seccomp.count} instructions")
        if self.capabilities:
            lines.append(self.capabilities.describe())
        groups = " ".join(map(str, self.groups)) or "none"
        lines.append(f"become uid {self.uid} gid {self.gid} groups {groups} umask {self.umask:03o}")
        lines.append(
            f"execute {b' '.join(self.arguments).decode(errors='replace')} in {os.fsdecode(self.cwd)}"
        )
        return lines

    # -- process steps, in the child ----------------------------------------------------------------

    def set_limits(self, pid: int = 0) -> None:
        """Of the caller, or of another process (a user namespace's, by its privileged parent)."""
        for _, number, soft, hard in self.limits:
            resource.prlimit(pid, number, (soft, hard))

    def restrict(self) -> None:
        """From no_new_privs to the final capability sets."""
        if self.no_new_privs:
            sc.prctl(sc.PR_SET_NO_NEW_PRIVS, 1)
        elif self.seccomp:
            self.seccomp.install()
        if self.capabilities:
            self.capabilities.drop_bounding()
            sc.prctl(sc.PR_SET_KEEPCAPS, 1)
        os.setgroups(self.groups)
        os.setresgid(self.gid, self.gid, self.gid)
        os.setresuid(self.uid, self.uid, self.uid)
        if self.capabilities:
            sc.prctl(sc.PR_SET_KEEPCAPS, 0)
            self.capabilities.apply()
        os.umask(self.umask)

    def enter_directory(self, *, again: bool = False) -> None:
        """chdir to the working directory and make sure that it is inside the root (CVE-2024-21626).

        Tried with full rights first and again as the user: either may be the only one allowed to.
        """
        try:
            os.chdir(self.cwd)
        except OSError as error:
            if isinstance(error, PermissionError) and not again:
                return
            text = f'chdir to cwd ("{os.fsdecode(self.cwd)}") set in config.json failed: {_text(error)}'
            exit_code = EXIT_NOT_EXECUTABLE if isinstance(error, PermissionError) else EXIT_NOT_FOUND
            raise LaunchError(text, stage="cwd", errno=error.errno or 0, exit_code=exit_code) from None
        try:
            os.getcwd()
        except OSError as error:
            raise LaunchError(f"{_ESCAPE} detected", stage="cwd", errno=error.errno or 0) from None

    def complete_environment(self) -> None:
        """HOME from the container's /etc/passwd when the specification does not set it, as runc does."""
        if b"HOME" not in self.environment:
            self.environment[b"HOME"] = _home(self.uid)

    def find_executable(self) -> bytes:
        """The program's path, searched in the environment's PATH; texts and codes are Docker's."""
        name = self.arguments[0]
        if b"/" in name:
            problem = _check_executable(name)
            if problem is None:
                return name
            text, number = problem
            if number == 2:
                text = f"stat {os.fsdecode(name)}: {text}"
            raise _not_executable(name, text, number)
        for directory in self.environment.get(b"PATH", b"").split(b":"):
            path = (directory or b".") + b"/" + name
            if _check_executable(path) is None:
                return path
        raise _not_executable(name, "executable file not found in $PATH", 2)

    def execute(self, path: bytes) -> None:
        """Never returns.

        What the look-up let pass and the kernel refuses (no format it knows, a script's interpreter that is not
        there) is the program's failure to Docker, not the start's: a line on its standard error, and 255.
        """
        try:
            os.execve(path, self.arguments, self.environment)
        except OSError as error:
            os.write(2, b"exec " + path + b": " + _text(error).encode() + b"\n")
            os._exit(_EXEC_FAILED)


def own_standard_streams(uid: int) -> None:
    """Give the standard streams to the container's user, so that it may open /dev/stdout again.

    Only pipes, sockets and ttys: a null device or file of the host keeps its owner.
    """
    for fd in (0, 1, 2):
        try:
            found = os.fstat(fd)
            if found.st_uid != uid and not stat.S_ISREG(found.st_mode) and found.st_rdev != os.makedev(1, 3):
                os.fchown(fd, uid, found.st_gid)
        except OSError:
            pass  # closed, of an unmapped owner, or on a read-only file system: left as it is, as runc does


def _text(error: OSError) -> str:
    return os.strerror(error.errno or 0).lower()


def _check_executable(path: bytes) -> tuple[str, int] | None:
    """None when it may be executed, or the reason and its errno."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        return _text(error), error.errno or 0
    if stat.S_ISDIR(mode):
        return "is a directory: permission denied", 13
    if not os.access(path, os.X_OK, effective_ids=True):
        return "permission denied", 13
    return None


def _not_executable(name: bytes, text: str, number: int) -> LaunchError:
    exit_code = (
        EXIT_NOT_EXECUTABLE if number in (8, 13, 20, 21) else EXIT_NOT_FOUND if number == 2 else EXIT_FAILED
    )
    return LaunchError(
        f'exec: "{os.fsdecode(name)}": {text}', stage="exec", errno=number, exit_code=exit_code
    )


def _home(uid: int) -> bytes:
    """The home directory in the container's /etc/passwd, "/" when there is none (passwd(5))."""
    try:
        with open("/etc/passwd", "rb") as file:
            for line in file:
                fields = line.rstrip(b"\n").split(b":")
                if len(fields) > 5 and fields[2] == b"%d" % uid and fields[5]:
                    return fields[5]
    except OSError:
        pass
    return b"/"


def encode(value: str, field: str) -> bytes:
    try:
        return os.fsencode(value)
    except UnicodeError:
        raise SpecError(field, f"{value!r} cannot be encoded") from None


def _environment(process: Object, field: str) -> dict[bytes, bytes]:
    """The last of equal names wins, as in runc."""
    environment = {}
    for index, entry in enumerate(get_strings(process, "env", f"{field}.env")):
        name, equals, value = encode(entry, f"{field}.env[{index}]").partition(b"=")
        if not equals or not name:
            raise SpecError(f"{field}.env[{index}]", f"must be NAME=VALUE, not {entry!r}")
        environment[name] = value
    return environment


def _console_size(process: Object, field: str) -> tuple[int, int] | None:
    if process.get("consoleSize") is None:
        return None
    size = get_object(process, "consoleSize", f"{field}.consoleSize")
    rows = get_int(size, "height", f"{field}.consoleSize.height", default=0, high=0xFFFF)
    return rows, get_int(size, "width", f"{field}.consoleSize.width", default=0, high=0xFFFF)


def _limits(process: Object, field: str) -> list[tuple[str, int, int, int]]:
    """(name, number, soft, hard) of each resource limit; -1 and 2**64-1 both mean unlimited (prlimit(2))."""
    limits = []
    seen = set()
    for index, entry in enumerate(get_objects(process, "rlimits", f"{field}.rlimits")):
        where = f"{field}.rlimits[{index}]"
        name = get_string(entry, "type", f"{where}.type")
        number = getattr(resource, name, None) if name.startswith("RLIMIT_") else None
        if number is None:
            raise SpecError(f"{where}.type", f"{name!r} is not a resource limit")
        if name in seen:
            raise SpecError(f"{where}.type", f"{name} is given twice")
        seen.add(name)
        soft = get_int(entry, "soft", f"{where}.soft", low=-1, high=(1 << 64) - 1)
        hard = get_int(entry, "hard", f"{where}.hard", low=-1, high=(1 << 64) - 1)
        if soft % (1 << 64) > hard % (1 << 64):
            raise SpecError(where, f"the soft limit {soft} is above the hard limit {hard}")
        limits.append((name, number, _signed(soft), _signed(hard)))
    return limits


def _signed(value: int) -> int:
    return -1 if value < 0 or value >= (1 << 63) else value


def _apparmor(process: Object, field: str) -> bytes:
    profile = get_string(process, "apparmorProfile", f"{field}.apparmorProfile")
    if profile and not apparmor_enabled():
        raise SpecError(
            f"{field}.apparmorProfile", f"{profile!r} was asked for, but the kernel has no AppArmor"
        )
    return profile.encode()


def apparmor_enabled() -> bool:
    try:
        with open("/sys/module/apparmor/parameters/enabled", "rb") as file:
            return file.read(1) == b"Y"
    except OSError:
        return False


def set_apparmor(proc: int, profile: bytes) -> None:
    """Let the next execve change to the profile; written through a procfs that is known to be one."""
    for name in ("self/attr/apparmor/exec", "self/attr/exec"):
        try:
            fd = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=proc)
        except FileNotFoundError:
            continue
        try:
            os.write(fd, b"exec " + profile)
        finally:
            os.close(fd)
        return
    raise OSError(2, "AppArmor's attribute files are missing")
