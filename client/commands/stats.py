"""`pyd stats`: a thread reads each container's stream, the main thread draws twice a second."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

from client.errors import ClientError
from client.options import Command, Parsed
from client.render.listing import check_template, show
from client.render.units import binary_size, human_size
from client.session import Session, filters_json

FLAGS = """
a|all|bool||Show all containers, not only running ones
 |format|string||'table', 'table TEMPLATE', 'json' or a Go template
 |no-stream|bool||Show one result and end
 |no-trunc|bool||Do not shorten
"""
COLUMNS = {"Container": "CONTAINER", "ID": "CONTAINER ID", "Name": "NAME", "CPUPerc": "CPU %",
           "MemUsage": "MEM USAGE / LIMIT", "MemPerc": "MEM %", "NetIO": "NET I/O", "BlockIO": "BLOCK I/O",
           "PIDs": "PIDS"}  # fmt: skip
_DEFAULT = ("ID", "Name", "CPUPerc", "MemUsage", "MemPerc", "NetIO", "BlockIO", "PIDs")


def cpu_percent(sample: dict[str, Any]) -> float:
    """The container's share of the machine's time between the two readings, times the CPUs."""
    now, before = sample.get("cpu_stats") or {}, sample.get("precpu_stats") or {}
    used = now.get("cpu_usage", {}).get("total_usage", 0) - before.get("cpu_usage", {}).get("total_usage", 0)
    whole = now.get("system_cpu_usage", 0) - before.get("system_cpu_usage", 0)
    cpus = now.get("online_cpus") or len(now.get("cpu_usage", {}).get("percpu_usage") or [])
    return used / whole * cpus * 100.0 if used > 0 and whole > 0 else 0.0


def memory_used(memory: dict[str, Any]) -> int:
    """Usage without the inactive page cache, v1's and v2's name for it."""
    usage, details = int(memory.get("usage", 0)), memory.get("stats") or {}
    for key in ("total_inactive_file", "inactive_file"):
        if key in details and details[key] < usage:
            return usage - int(details[key])
    return usage


def row(name: str, sample: dict[str, Any] | None, *, short: bool) -> dict[str, str]:
    """One line; dashes while nothing is known."""
    if not sample:
        return {"Container": name, "ID": name, "Name": "--", "CPUPerc": "--", "MemUsage": "-- / --", "MemPerc": "--",
                "NetIO": "--", "BlockIO": "--", "PIDs": "--"}  # fmt: skip
    memory = sample.get("memory_stats") or {}
    used, limit = memory_used(memory), int(memory.get("limit", 0))
    networks = (sample.get("networks") or {}).values()
    blocks = (sample.get("blkio_stats") or {}).get("io_service_bytes_recursive") or []

    def moved(letter: str) -> int:
        return sum(entry["value"] for entry in blocks if entry.get("op", "")[:1].lower() == letter)

    def pair(first: float, second: float) -> str:
        return f"{human_size(first, 3)} / {human_size(second, 3)}"

    identifier = str(sample.get("id", name))
    return {
        "Container": name,
        "ID": identifier[:12] if short else identifier,
        "Name": str(sample.get("name", "")).removeprefix("/") or "--",
        "CPUPerc": f"{cpu_percent(sample):.2f}%",
        "MemUsage": f"{binary_size(used)} / {binary_size(limit)}",
        "MemPerc": f"{used / limit * 100 if limit else 0:.2f}%",
        "NetIO": pair(sum(n["rx_bytes"] for n in networks), sum(n["tx_bytes"] for n in networks)),
        "BlockIO": pair(moved("r"), moved("w")),
        "PIDs": str((sample.get("pids_stats") or {}).get("current", 0)),
    }


class Follower(threading.Thread):
    """Reads one container's samples; `latest` is the newest."""

    def __init__(self, session: Session, name: str, *, stream: bool) -> None:
        super().__init__(daemon=True)
        self._session, self.container, self._stream = session, name, stream
        self.latest: dict[str, Any] | None = None
        self.problem: ClientError | None = None

    def run(self) -> None:
        query = {"stream": 1 if self._stream else 0}
        try:
            for sample in self._session.api.messages(
                "GET", f"/containers/{self.container}/stats", query=query
            ):
                self.latest = sample
        except ClientError as error:
            self.problem = error


def _names(session: Session, parsed: Parsed) -> list[str]:
    if parsed.arguments:
        return parsed.arguments
    query = {"all": 1 if parsed.on("all") else None, "filters": filters_json([])}
    return [container["Id"][:12] for container in session.api.json("GET", "/containers/json", query=query)]


def _draw(followers: list[Follower], text: str, *, short: bool, clear: bool) -> None:
    rows = [row(follower.container, follower.latest, short=short) for follower in followers]
    lines: list[str] = []
    show(rows, COLUMNS, _DEFAULT, text, kind="*container.statsContext", echo=lambda line: lines.append(line))
    body = "\n".join(lines)
    if clear:
        body = "\x1b[H" + body.replace("\n", "\x1b[K\n") + "\x1b[K\x1b[J"
    sys.stdout.write(body + "\n")
    sys.stdout.flush()


def stats(session: Session, parsed: Parsed) -> int:
    text, stream = parsed.text("format"), not parsed.on("no-stream")
    check_template(text)
    short = not parsed.on("no-trunc")
    followers: dict[str, Follower] = {}

    def follow() -> None:
        names = _names(session, parsed)
        for name in names:
            if name not in followers:
                followers[name] = Follower(session, name, stream=stream)
                followers[name].start()
        for name in followers.keys() - set(names):
            del followers[name]

    follow()
    if not stream:
        for follower in followers.values():
            follower.join()
        _report(followers)
        _draw(list(followers.values()), text, short=short, clear=False)
        return 0
    return _watch(followers, follow, text, parsed, short=short)


def _report(followers: dict[str, Follower]) -> None:
    problems = [str(follower.problem) for follower in followers.values() if follower.problem]
    if problems:
        raise ClientError("\n".join(problems))


def _watch(followers: dict[str, Follower], follow: Any, text: str, parsed: Parsed, *, short: bool) -> int:
    """Draw until interrupted, or until every container that was named is gone."""
    turn = 0
    while True:
        time.sleep(0.5)
        turn += 1
        if not parsed.arguments and turn % 4 == 0:
            follow()
        if parsed.arguments and not any(follower.is_alive() for follower in followers.values()):
            _report(followers)
            return 0
        _draw(list(followers.values()), text, short=short, clear=text in ("", "table"))


COMMANDS = (
    Command(("stats", "container stats"), "[CONTAINER...]",
            "Display a live stream of containers' resource usage", stats, FLAGS, completes="running"),
)  # fmt: skip
