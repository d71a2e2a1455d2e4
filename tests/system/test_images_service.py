"""The image service called directly: commit, leases against collection, confinement, memory."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from daemon.config import DaemonConfig
from daemon.images.service import ImageService
from daemon.images.sessions import Patience
from storage.errors import InvalidArgument
from storage.snapshots import Kind
from tests.system.images_registry import archive, fake_registry
from tests.system.images_rig import REPOSITORY, make_service


@pytest.fixture
async def images(tmp_path: Path) -> AsyncIterator[ImageService]:
    root = tmp_path / "data"
    service = make_service(root, DaemonConfig(data_root=root, exec_root=root), Patience(), lambda *_: None)
    await service.start()
    yield service
    await service.stop()


async def stream(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def import_image(images: ImageService, name: str, files: dict[str, bytes]) -> str:
    lines = [line async for line in images.import_(stream(archive(files)), name)]
    return str(lines[-1]["status"])


async def test_commit(images: ImageService) -> None:
    await import_image(images, "base", {"kept": b"1", "gone": b"22"})
    base = images.resolve("base")
    snapshots = images._store.snapshots
    snapshots.prepare("c1", base.top)
    upper = snapshots.layer_dir("c1")
    (upper / "new").write_bytes(b"4444")
    os.mknod(upper / "gone", 0o020000, 0)

    config = {"Env": ["A=1"], "Cmd": ["x"], "Labels": {"l": "1"}}
    image_id = await images.commit(
        "c1",
        base,
        config,
        container_id="c1",
        repo="made",
        tag="2",
        author="me",
        message="why",
        changes=["ENV B=2"],
    )
    made = images.resolve("made:2")
    assert made.id == image_id
    assert made.parent == base.id
    assert made.diff_ids[:-1] == base.diff_ids
    assert made.size == base.size + 4
    assert made.container_config["Env"] == ["B=2", "A=1"]
    assert made.container_config["Cmd"] == ["x"]
    shown = await images.inspect("made:2")
    assert (shown["Author"], shown["Comment"], shown["Parent"]) == ("me", "why", base.id)
    assert [row["Id"] for row in images.history("made:2")] == [made.id, base.id]
    assert made.top is not None
    layer = snapshots.layer_dir(made.top)
    assert (layer / "new").read_bytes() == b"4444"
    assert (layer / "gone").lstat().st_rdev == 0

    saved = b"".join([part async for part in images.save(["made:2"])])
    snapshots.remove("c1")
    entries = await images.remove("made:2")
    assert {"Deleted": image_id} in entries
    assert [line async for line in images.load(stream(saved), quiet=True)] == [
        {"stream": "Loaded image: made:2\n"}
    ]
    assert images.resolve("made:2").id == image_id


async def test_commit_refuses_before_it_works(images: ImageService) -> None:
    await import_image(images, "base", {"a": b"1"})
    base = images.resolve("base")
    images._store.snapshots.prepare("c1", base.top)
    with pytest.raises(InvalidArgument, match="RUN is not a valid change command"):
        await images.commit("c1", base, {}, changes=["RUN x"])
    keys = [each.key for each in images._store.snapshots.walk() if each.kind is not Kind.COMMITTED]
    assert keys == ["c1"]


async def test_layer_of_a_removed_image_stays_for_its_container(images: ImageService) -> None:
    with fake_registry() as registry:
        registry.put("1", archive({"a": b"1" * 5000}))
        name = f"{registry.address}/x:1"
        async for _ in images.pull(name):
            pass
        image = images.resolve(name)
        assert image.top is not None
        images._store.snapshots.prepare("c1", image.top)
        await images.remove(name, force=True)
        assert images._store.snapshots.exists(image.top)
        lines = [line async for line in images.pull(name)]
        assert lines[-1]["status"].startswith("Status: Downloaded newer image")
        saved = b"".join([part async for part in images.save([name])])
        assert len(saved) > 5000


async def test_unpack_process_is_confined(images: ImageService) -> None:
    """What it may do is read from /proc while it waits for a layer that does not come."""
    feed = asyncio.Event()

    async def half() -> AsyncIterator[bytes]:
        data = archive({"a": b"1" * 100_000})
        yield data[:50_000]
        await feed.wait()
        yield data[50_000:]

    async def run() -> list[object]:
        return [line async for line in images.import_(half(), "slow")]

    task = asyncio.create_task(run())
    found: list[str] = []
    for _ in range(200):
        await asyncio.sleep(0.05)
        listed = await asyncio.to_thread(
            subprocess.run, ["pgrep", "-f", "transfer.unpack"], capture_output=True, text=True, check=False
        )
        ours = [pid for pid in listed.stdout.split() if str(images._config.data_root) in _command(pid)]
        if ours and _status(ours[0]).get("NoNewPrivs") == "1" and _directory(ours[0]).endswith("/fs"):
            found = ours
            break
    assert found, "no unpack process"
    pid = found[0]
    await asyncio.sleep(0.2)
    status = _status(pid)
    capabilities = int(status["CapEff"], 16)
    assert capabilities & (1 << 12) == 0, "CAP_NET_ADMIN"
    assert capabilities & (1 << 19) == 0, "CAP_SYS_PTRACE"
    assert os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net")
    assert _directory(pid).startswith(str(images._config.data_root))
    feed.set()
    await task
    assert images.resolve("slow").size == 100_000


def _status(pid: str) -> dict[str, str]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def _command(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def _directory(pid: str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/cwd")
    except OSError:
        return ""


async def test_client_that_stops_reading_a_save(images: ImageService) -> None:
    await import_image(images, "large", {"a": os.urandom(3_000_000)})
    saving = images.save(["large"])
    assert len(await anext(saving)) > 0
    await saving.aclose()  # type: ignore[attr-defined]
    assert (await images.remove("large"))[0] == {"Untagged": "large:latest"}


def test_daemon_does_not_load_what_only_workers_need() -> None:
    code = "import sys, daemon.images.service; print(*(n for n in ('httpx', 'isal', 'zstandard') if n in sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == ""
