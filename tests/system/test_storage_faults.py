"""Storage against kill -9 and a full disk."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.content import ContentStore
from storage.errors import NoSpace
from storage.records import Put, Records
from storage.snapshots import OverlaySnapshotter

WRITER = """
import asyncio, sys
from pathlib import Path
from storage.records import Append, Put, Records

async def main():
    records = Records(Path(sys.argv[1]))
    base = int(sys.argv[2])

    async def writer(lane):
        for n in range(100_000):
            key = f"{base}-{lane}-{n}"
            await records.write([Put("k", key, {"n": n}), Append("j", n, {"key": key})])
            sys.stdout.write(key + "\\n")
            sys.stdout.flush()

    await asyncio.gather(*(writer(lane) for lane in range(5)))

asyncio.run(main())
"""


def test_every_acknowledged_write_survives_kill_nine(tmp_path: Path) -> None:
    """And what was written together is there together."""
    path = tmp_path / "pyd.db"
    acknowledged: set[str] = set()
    for round_ in range(12):
        command = [sys.executable, "-c", WRITER, str(path), str(round_)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            acknowledged.add(child.stdout.readline().strip())
            time.sleep(random.uniform(0, 0.1))
            child.kill()
            rest = child.stdout.read()
        acknowledged.update(rest[: rest.rfind("\n") + 1].split())
        assert child.returncode == -signal.SIGKILL
        records = Records(path)
        there = records.load("k").keys()
        assert acknowledged <= there
        assert {entry["key"] for entry in records.scan("j")} == set(there)
        records.close()
    assert len(acknowledged) > 100


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes."""
    mounted = tmp_path / "small"
    mounted.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", mounted], check=True)
    try:
        yield mounted
    finally:
        subprocess.run(["umount", mounted], check=True)


def test_full_disk_leaves_no_half_blob_and_the_store_goes_on(small: Path) -> None:
    store = ContentStore(small)
    with pytest.raises(NoSpace, match="No space left"), store.writer() as writer:
        for _ in range(100):
            writer.write(os.urandom(100_000))
    assert list(store.ingest.iterdir()) == []
    assert store.has(store.add(b"small"))


async def test_full_disk_refuses_records_and_keeps_the_old_ones(small: Path) -> None:
    records = Records(small / "pyd.db")
    await records.write([Put("k", "before", {})])
    with pytest.raises(NoSpace, match=r"pyd\.db"):
        for n in range(100):
            await records.write([Put("k", f"large{n}", {"x": "y" * 100_000})])
    there = set(records.load("k"))
    assert "before" in there
    records.close()
    again = Records(small / "pyd.db")
    assert set(again.load("k")) == there
    again.close()


def test_full_disk_refuses_snapshots_and_keeps_the_old_ones(small: Path) -> None:
    snapshots = OverlaySnapshotter(small)
    snapshots.prepare("before", None)
    filler = small / "filler"
    with pytest.raises(OSError), open(filler, "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    with pytest.raises(NoSpace):
        snapshots.prepare("refused", None)
    with pytest.raises(NoSpace):
        snapshots.commit("refused", "before")
    assert [s.key for s in OverlaySnapshotter(small).walk()] == ["before"]
    filler.unlink()
    snapshots.purge()
    snapshots.prepare("refused", None)
