"""What the supervisor knows, on disk before it acts on it: `exec_root/containers/<id>/`.

    state.json            written before the cgroup is made (phase "starting"), and with the pid and phase
                          "running" when the execve has succeeded
    exit.json             the init's end; written before it is announced
    execs/<exec id>.json  one file an exec, written when there is a pid, rewritten with its end, removed when
                          that is acknowledged

Every file is written aside and renamed, so it is whole or absent. There is no fsync: the directory is on
a tmpfs, a power cut ends the containers as well. A pid alone is worthless after a crash; with the start
time (field 22 of /proc/<pid>/stat, proc(5)) it names one process of this boot.
"""

from __future__ import annotations

import json
import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Records:
    def __init__(self, exec_root: str) -> None:
        self.root = os.path.join(exec_root, "containers")
        os.makedirs(self.root, mode=0o711, exist_ok=True)

    def directory(self, container_id: str) -> str:
        return os.path.join(self.root, container_id)

    def save_state(self, container_id: str, state: dict[str, Any]) -> None:
        self._write(container_id, "state.json", state)

    def save_exit(self, container_id: str, exit: dict[str, Any]) -> None:
        self._write(container_id, "exit.json", exit)

    def save_exec(self, container_id: str, exec_id: str, record: dict[str, Any]) -> None:
        self._write(container_id, os.path.join("execs", f"{exec_id}.json"), record)

    def _write(self, container_id: str, name: str, data: dict[str, Any]) -> None:
        path = os.path.join(self.directory(container_id), name)
        temporary = f"{path}.new"
        body = json.dumps(data, separators=(",", ":")).encode()
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        try:
            fd = os.open(temporary, flags, 0o600)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            fd = os.open(temporary, flags, 0o600)
        try:
            os.write(fd, body)
        finally:
            os.close(fd)
        os.rename(temporary, path)

    @staticmethod
    def _read(path: str) -> dict[str, Any] | None:
        try:
            with open(path, "rb") as file:
                data = json.loads(file.read())
        except (OSError, ValueError):
            return None
        return data if isinstance(data, dict) else None

    def containers(self) -> list[str]:
        """The ids that have a state."""
        names = sorted(os.listdir(self.root))
        return [name for name in names if os.path.exists(os.path.join(self.root, name, "state.json"))]

    def state(self, container_id: str) -> dict[str, Any] | None:
        return self._read(os.path.join(self.directory(container_id), "state.json"))

    def exit(self, container_id: str) -> dict[str, Any] | None:
        return self._read(os.path.join(self.directory(container_id), "exit.json"))

    def execs(self, container_id: str) -> dict[str, dict[str, Any]]:
        folder = os.path.join(self.directory(container_id), "execs")
        try:
            names = [name for name in os.listdir(folder) if name.endswith(".json")]
        except FileNotFoundError:
            return {}
        records = {name[:-5]: self._read(os.path.join(folder, name)) for name in names}
        return {name: record for name, record in records.items() if record is not None}

    def forget_exec(self, container_id: str, exec_id: str) -> None:
        _unlink(os.path.join(self.directory(container_id), "execs", f"{exec_id}.json"))

    def forget(self, container_id: str) -> None:
        """Removes what this class wrote; the bundle's other files stay."""
        folder = self.directory(container_id)
        for name in ("state.json", "state.json.new", "exit.json", "exit.json.new"):
            _unlink(os.path.join(folder, name))
        remove_tree(os.path.join(folder, "execs"))

    def owns(self, bundle: str) -> bool:
        """Whether a bundle lies in our own directory, and so may be removed by us."""
        return os.path.dirname(os.path.normpath(bundle)) == os.path.normpath(self.root)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


def remove_tree(path: str) -> None:
    """Removes a directory, following no symlink and entering no other file system. Absence is fine."""
    try:
        device = os.lstat(path).st_dev
        _remove(path, device)
    except FileNotFoundError:
        return


def _remove(path: str, device: int) -> None:
    with os.scandir(path) as entries:
        for entry in entries:
            status = entry.stat(follow_symlinks=False)
            if status.st_dev != device:
                continue
            if stat.S_ISDIR(status.st_mode):
                _remove(entry.path, device)
            else:
                os.unlink(entry.path)
    try:
        os.rmdir(path)
    except OSError:
        return


def start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since the boot; None when there is none."""
    fields = stat_fields(pid)
    return int(fields[19]) if fields else None


def stat_fields(pid: int) -> list[str] | None:
    """/proc/<pid>/stat after the command, which may contain anything: [0] is the state (field 3)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].decode().split()
    except (FileNotFoundError, ProcessLookupError):
        return None
