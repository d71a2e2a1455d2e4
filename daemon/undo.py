"""`python -m daemon.undo`: takes everything that a stopped daemon left off the machine, its data included.

    refuse while a pydd holds the roots
    → containers killed, supervisor and keeper asked to go     (by their own protocol; else by force)
    → network namespaces, veths, bridges, firewall table       (daemon/network/undo.py)
    → the parent cgroup with all that is below
    → mounts below the roots → the roots themselves

Nothing is looked up in records: every kernel object carries the daemon's identity, which is a function of
its roots. So this works after any crash, and again when it was interrupted itself. What is not there is
done already; what cannot be removed is named, and makes the exit status 1.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import fcntl
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from daemon.cgroups import CgroupError, detect, open_cgroup
from daemon.config import DEFAULT_DATA_ROOT, DEFAULT_EXEC_ROOT, DaemonConfig
from daemon.network.undo import undo as undo_network
from daemon.runtime import protocol
from daemon.runtime.client import ExitEvent, RuntimeCallError, RuntimeClient
from storage.errors import Conflict, Forbidden, PydError

PATIENCE = 20.0
"""Seconds that supervisor and containers get to go in order before they are killed."""

LOCK = "pydd.lock"
"""The file that every pydd locks in its roots; it also marks a directory as a daemon's root."""

MNT_DETACH = 2


@contextlib.contextmanager
def exclusive(*roots: Path) -> Iterator[None]:
    """Holds the locks of a daemon with these roots. Raises Conflict while one runs."""
    with contextlib.ExitStack() as stack:
        for root in roots:
            try:
                held = os.open(root / LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            except (FileNotFoundError, NotADirectoryError):
                continue
            stack.callback(os.close, held)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Conflict(f"a pydd that uses {root} is running: stop it first") from None
        yield


# -- processes


async def _stop_containers(client: RuntimeClient) -> None:
    """Kills what runs and forgets what ended, so that the supervisor agrees to leave."""
    ended: dict[str, asyncio.Event] = {}

    def on_exit(event: ExitEvent) -> None:
        if event.exec_id is None and event.id in ended:
            ended[event.id].set()

    client.on_exit = on_exit
    states = await client.states()
    for container_id, state in states.items():
        if state.exit_status is not None:
            continue
        ended[container_id] = asyncio.Event()
        if state.status == "paused":
            await client.resume(container_id)
        with contextlib.suppress(RuntimeCallError):  # it ended by itself
            await client.kill(container_id, signal.SIGKILL, everything=True)
    for done in ended.values():
        await done.wait()
    for container_id in states:
        await client.delete(container_id)


async def _dismiss(config: DaemonConfig) -> None:
    """A supervisor that died is started once more: it finds what its predecessor's containers are."""
    client = RuntimeClient(config.exec_root, cgroup_root=config.cgroup_root)
    try:
        await client.connect()
        await _stop_containers(client)
        await client.shutdown()
    finally:
        await client.close()


def _answers(path: Path) -> bool:
    try:
        protocol.connect(str(path)).close()
    except OSError:
        return False
    return True


def stop_runtime(config: DaemonConfig) -> None:
    """Supervisor, keeper and all containers; by force what does not go within PATIENCE."""
    if _answers(config.supervisor_socket) or _answers(config.keeper_socket):
        with contextlib.suppress(RuntimeCallError, TimeoutError, OSError):
            asyncio.run(asyncio.wait_for(_dismiss(config), PATIENCE))
    for pid in supervisors(config.exec_root):
        _kill(pid)
    if config.keeper_socket.exists():
        with contextlib.suppress(OSError, protocol.Disconnected):
            protocol.Connection(protocol.connect(str(config.keeper_socket))).send({"op": "shutdown"})


def supervisors(exec_root: Path) -> list[int]:
    """Processes whose command line is that of a supervisor with this root, and clones of one."""
    found = []
    for entry in os.listdir("/proc"):
        with contextlib.suppress(OSError, ValueError):
            pid = int(entry)
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            ours = any(word.endswith(b"/supervisor.py") for word in words[:5])
            if ours and os.fsencode(exec_root) in words:
                found.append(pid)
    return found


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def remove_cgroups(config: DaemonConfig) -> None:
    """The daemon's parent cgroup; processes still in it are in no container that anyone knows."""
    layout = detect()
    top = layout.v1.get("freezer") or layout.unified or layout.root
    for directory, _, _ in os.walk(os.path.join(top, config.cgroup_root), topdown=False):
        open_cgroup(layout, os.path.relpath(directory, top)).kill()  # each: killing a parent thaws no child
    open_cgroup(layout, config.cgroup_root).delete()


# -- files


def mounts_below(root: Path, table: str = "/proc/self/mountinfo") -> list[Path]:
    """Mount points at and below `root`, the deepest and latest first. proc_pid_mountinfo(5)."""
    found = []
    for line in Path(table).read_text().splitlines():
        escaped = os.fsencode(line.split()[4])  # spaces and the like as \040
        point = Path(os.fsdecode(escaped.decode("unicode_escape").encode("latin-1")))
        if point.is_relative_to(root):
            found.append(point)
    found.sort(key=lambda point: len(point.parts))
    found.reverse()
    return found


def unmount_below(root: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    for point in mounts_below(root):
        if libc.umount2(os.fsencode(point), MNT_DETACH):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(point))


def remove_root(root: Path) -> None:
    """The directory with all that is in it, only if a pydd (or its supervisor) made it one of its roots."""
    if not root.exists():
        return
    if not any((root / name).exists() for name in (LOCK, "supervisor.lock")):
        if any(root.iterdir()):
            raise Forbidden(f"{root} is not removed: no {LOCK} in it says that it is a pydd's")
        root.rmdir()
        return
    unmount_below(root)
    for entry in sorted(root.iterdir(), key=lambda entry: entry.name in (LOCK, "supervisor.lock")):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    root.rmdir()


def undo(config: DaemonConfig) -> list[str]:
    """Every step, also when one before it failed; what failed, as one line each. Raises Conflict only."""
    failures = []
    roots = dict.fromkeys((config.exec_root, config.data_root))
    with exclusive(*roots):
        steps = [(stop_runtime, config), (undo_network, config), (remove_cgroups, config)]
        for step, argument in [*steps, *((remove_root, root) for root in roots)]:
            try:
                step(argument)  # type: ignore[operator]
            except (OSError, PydError, CgroupError) as error:
                failures.append(str(error))
    return failures


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m daemon.undo", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data-root", type=Path, default=DEFAULT_DATA_ROOT)
    parser.add_argument("--exec-root", type=Path, default=DEFAULT_EXEC_ROOT)
    options = parser.parse_args(arguments)
    config = DaemonConfig(
        data_root=Path(os.path.abspath(options.data_root)), exec_root=Path(os.path.abspath(options.exec_root))
    )
    try:
        failures = undo(config)
    except PydError as error:
        failures = [str(error)]
    for failure in failures:
        print(f"undo: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
