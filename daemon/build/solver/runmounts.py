"""RUN --mount: where each comes from on this machine, as mounts of the OCI spec.

bind      a path of another tree: a file, a directory, or a small overlay of the layers that make it up
cache     a directory of the daemon's, kept between builds; shared, locked or private
tmpfs     memory
secret    a file on the runtime's memory file system, or a variable; never in the data root
ssh       the socket of an agent of the client's, served while the step runs
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from daemon.build.bench import SCRATCH, Bench, Job, Result
from daemon.build.graph import CopyFiles, Exec, ExecMount, describe
from daemon.build.solver import secretmounts
from storage.errors import InvalidArgument, NotFound, NotImplementedYet

_BIND = ["rbind", "rprivate"]


@dataclass
class Prepared:
    """Mounts, the variables of secrets, the mount points, and what gives it all back."""

    mounts: list[dict[str, Any]] = field(default_factory=list)
    env: list[str] = field(default_factory=list)
    targets: list[str] = field(default_factory=list)
    undo: list[Callable[[], Awaitable[None] | None]] = field(default_factory=list)

    async def release(self) -> None:
        while self.undo:
            given_back = self.undo.pop()()
            if given_back is not None:
                await given_back


async def prepare(
    bench: Bench,
    job: Job,
    operation: Exec,
    inputs: list[Result],
    directory: Path,
    private: Path,
    outputs: Mapping[int, str],
) -> Prepared:
    prepared = Prepared()
    try:
        for number, mount in enumerate(operation.mounts):
            if mount.target:
                prepared.targets.append(mount.target)
            match mount.kind:
                case "bind" if mount.output > 0:
                    prepared.mounts.append(_output(bench, mount, outputs[mount.output]))
                case "bind":
                    tree = inputs[mount.input] if mount.input >= 0 else SCRATCH
                    await _bind(bench, mount, tree, directory / str(number), prepared)
                case "cache":
                    await _cache(bench, operation, mount, inputs, prepared)
                case "tmpfs":
                    size = [f"size={mount.size}"] if mount.size else []
                    options = ["nosuid", "nodev", "mode=1777", *size]
                    prepared.mounts.append(_mount("tmpfs", "tmpfs", mount.target, options))
                case "secret":
                    await _secret(job, mount, private / str(number), prepared)
                case "ssh":
                    await _agent(job, operation, mount, prepared)
    except BaseException:
        await prepared.release()
        raise
    return prepared


def _mount(kind: str, source: str, target: str, options: list[str]) -> dict[str, Any]:
    return {"destination": target, "type": kind, "source": source, "options": options}


def _output(bench: Bench, mount: ExecMount, key: str) -> dict[str, Any]:
    """What the process leaves there becomes a layer: an active snapshot."""
    if mount.source != "/":
        raise NotImplementedYet(
            f"a mount that is an output and only the directory {mount.source} of its input"
        )
    tree = bench.store.snapshots.overlay(key)
    if tree.plain is not None:
        return _mount("bind", str(tree.plain), mount.target, [*_BIND, "rw"])
    lower = ":".join(str(path).replace(":", "\\:") for path in tree.lower)
    options = [f"lowerdir={lower}", f"upperdir={tree.upper}", f"workdir={tree.work}"]
    return _mount("overlay", "overlay", mount.target, options)


async def _bind(bench: Bench, mount: ExecMount, tree: Result, own: Path, prepared: Prepared) -> None:
    """What a writable one gets written goes into a directory of the step's and is thrown away."""
    lower = bench.overlay(tree)
    if lower is None:
        empty = own / "empty"
        await asyncio.to_thread(empty.mkdir, parents=True)
        found: dict[str, Any] = {"directories": [str(empty)]}
        if mount.source != "/":
            raise NotFound(f'"{mount.source}": not found')
    else:
        found = await bench.workshop.call("subtree", lower=lower["lower"], path=mount.source)
    if "file" in found:
        if not mount.readonly:
            raise InvalidArgument(f"a file can only be mounted read-only: {mount.target}")
        prepared.mounts.append(_mount("bind", found["file"], mount.target, [*_BIND, "ro"]))
        return
    directories: list[str] = found["directories"]
    if mount.readonly and len(directories) == 1:
        prepared.mounts.append(_mount("bind", directories[0], mount.target, [*_BIND, "ro"]))
        return
    options = ["lowerdir=" + ":".join(path.replace(":", "\\:") for path in directories)]
    if not mount.readonly:
        upper, work = own / "upper", own / "work"
        for path in (upper, work):
            path.mkdir(parents=True)
        above = os.stat(directories[0])
        os.chown(upper, above.st_uid, above.st_gid)
        os.chmod(upper, above.st_mode & 0o7777)
        options += [f"upperdir={upper}", f"workdir={work}"]
    prepared.mounts.append(
        _mount("overlay", "overlay", mount.target, options + (["ro"] if mount.readonly else []))
    )


async def _cache(
    bench: Bench, operation: Exec, mount: ExecMount, inputs: list[Result], prepared: Prepared
) -> None:
    fill = None
    if mount.input >= 0:
        fill = partial(_fill, bench, inputs[mount.input], mount.source)
    named = f' with id "{mount.id}"' if mount.id and mount.id != mount.target else ""
    description = f"cached mount {mount.target} from exec {' '.join(operation.args)}{named}"
    directory, release = await bench.cache_mounts.take(mount, description, fill)
    prepared.undo.append(release)
    options = [*_BIND, "ro"] if mount.readonly else _BIND
    prepared.mounts.append(_mount("bind", str(directory), mount.target, options))


async def _fill(bench: Bench, tree: Result, source: str, directory: Path) -> None:
    action = describe(CopyFiles(0, (source,), "/", wildcard=False))
    target: dict[str, Any] = {"lower": [], "upper": str(directory), "work": None}
    trees = [bench.overlay(tree)]
    await bench.workshop.call("file", actions=[action], target=target, inputs=trees, own=[False])
    if trees[0] is not None:
        found = await bench.workshop.call("subtree", lower=trees[0]["lower"], path=source)
        looks = os.stat(found["directories"][0]) if "directories" in found else None
        if looks is not None and source != "/":
            os.chown(directory, looks.st_uid, looks.st_gid)
            os.chmod(directory, looks.st_mode & 0o7777)


async def _secret(job: Job, mount: ExecMount, path: Path, prepared: Prepared) -> None:
    data = await secretmounts.secret(job, mount)
    if data is None:
        if mount.target in prepared.targets:
            prepared.targets.remove(mount.target)
        return
    if mount.env:
        prepared.env.append(f"{mount.env}={data.decode('utf-8', 'surrogateescape')}")
    if not mount.target:
        return
    secretmounts.store(data, mount, path)
    executable = () if mount.mode is not None and mount.mode & 0o111 else ("noexec",)
    options = [*_BIND, "ro", "nosuid", "nodev", *executable]
    prepared.mounts.append(_mount("bind", str(path), mount.target, options))


async def _agent(job: Job, operation: Exec, mount: ExecMount, prepared: Prepared) -> None:
    variable = f"{secretmounts.SOCKET_VARIABLE}="
    if not any(each.startswith(variable) for each in (*operation.env, *prepared.env)):
        prepared.env.append(f"{variable}{mount.target}")  # the first one's, as BuildKit has it
    opened = await secretmounts.agent(job, mount)
    if opened is None:
        prepared.targets.remove(mount.target)
        return
    path, close = opened
    prepared.undo.append(close)
    prepared.mounts.append(_mount("bind", str(path), mount.target, [*_BIND]))
