"""The runtime alone: pyd-oci beside runc on the same bundle, and the supervisor without any engine."""

from __future__ import annotations

import asyncio
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.cases import Cannot, Setting
from benchmarks.measure import Action, Row, alternate
from daemon.runtime.client import RuntimeClient

COMMANDS = Path(sys.executable).parent
CGROUP = "pyd-benchmark"


def bundle(setting: Setting) -> Path:
    """The benchmark's busybox as a bundle that runs `true`."""
    target = setting.directory / "bundle"
    if not target.exists():
        (target / "rootfs").mkdir(parents=True)
        subprocess.run(["tar", "-xf", setting.directory / "busybox.tar", "-C", target / "rootfs"], check=True)
        subprocess.run([COMMANDS / "pyd-oci", "spec"], cwd=target, check=True)
        config = json.loads((target / "config.json").read_text())
        config["process"] |= {"args": ["true"], "terminal": False}
        config["root"]["path"] = str(target / "rootfs")
        (target / "config.json").write_text(json.dumps(config))
    return target


def oci(setting: Setting) -> Iterator[Row]:
    runc = shutil.which("runc")
    if runc is None:
        raise Cannot("runc is not installed")
    at = str(bundle(setting))
    roots = [str(setting.directory / name) for name in ("oci-root", "runc-root")]

    def act(command: str, root: str) -> Action:
        line = [command, "--root", root, "run", "--bundle", at, f"{CGROUP}-{Path(command).name}"]
        return lambda: subprocess.run(line, check=True, stdin=subprocess.DEVNULL)

    actions = [act(str(COMMANDS / "pyd-oci"), roots[0]), act(runc, roots[1])]
    ours, theirs = alternate(actions, setting.rounds)
    yield Row("pyd-oci run beside runc run, same bundle", "ms", ours, theirs, ratio_limit=1)


def supervisor(setting: Setting) -> Iterator[Row]:
    times = asyncio.run(_starts(bundle(setting), setting.directory / "supervised", setting.rounds))
    yield Row(
        "supervisor: request to the program's first instruction", "ms", statistics.median(times), limit=5
    )


async def _starts(made: Path, exec_root: Path, rounds: int) -> list[float]:
    client = RuntimeClient(exec_root, cgroup_root=CGROUP)
    ended = asyncio.Event()
    client.on_exit = lambda event: ended.set()
    await client.connect()
    times = []
    try:
        for number in range(rounds + 2):
            name = f"start{number}"
            at = exec_root / "containers" / name
            at.mkdir(parents=True)
            shutil.copy(made / "config.json", at)
            ended.clear()
            start = time.perf_counter()
            await client.start(name, at, log=None, open_stdin=False, stdin_once=False, tty=False)
            times.append((time.perf_counter() - start) * 1000)
            await ended.wait()
            await client.delete(name)
    finally:
        await client.shutdown()
        _remove_cgroup()
    return times[2:]


def _remove_cgroup() -> None:
    from daemon.cgroups import detect, open_cgroup

    open_cgroup(detect(), CGROUP).delete()
