"""Records: atomic, ordered, grouped, and clear about a damaged file."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from storage import failpoints
from storage.errors import DataCorrupted, Internal, NoSpace
from storage.records import MIGRATIONS, Append, Delete, Put, Records, Trim


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pyd.db"


async def test_written_records_are_there_after_reopening(path: Path) -> None:
    records = Records(path)
    await records.write([Put("containers", "a", {"Name": "é\ud800"[:1]}), Put("images", "i", {})])
    assert records.get("containers", "a") == {"Name": "é"}
    records.close()
    again = Records(path)
    assert again.load("containers") == {"a": {"Name": "é"}}
    assert again.get("images", "i") == {}
    assert again.get("images", "j") is None
    again.close()


async def test_later_changes_of_the_callers_value_are_not_seen(path: Path) -> None:
    records = Records(path)
    value = {"list": [1]}
    await records.write([Put("k", "a", value)])
    value["list"].append(2)
    assert records.get("k", "a") == {"list": [1]}
    records.close()


async def test_deleting_what_is_not_there_is_no_error(path: Path) -> None:
    records = Records(path)
    await records.write([Put("k", "a", {}), Delete("k", "a"), Delete("k", "b")])
    assert records.load("k") == {}
    records.close()


async def test_failed_write_changes_nothing(path: Path) -> None:
    records = Records(path)
    await records.write([Put("k", "a", {"v": 1})])
    with pytest.raises(NoSpace, match=str(path)), failpoints.armed("records.write=error(ENOSPC)"):
        await records.write([Put("k", "a", {"v": 2}), Put("k", "b", {})])
    assert records.load("k") == {"a": {"v": 1}}
    await records.write([Put("k", "c", {})])
    records.close()
    assert set(Records(path).load("k")) == {"a", "c"}


async def test_one_callers_error_is_not_the_others(path: Path) -> None:
    """Held back, ten writes form one group; the group fails, then one of them alone."""
    records = Records(path)
    with failpoints.armed("records.write=1*sleep(0.1)->1*error(EIO)->3*off->1*error(EIO)"):
        first = asyncio.ensure_future(records.write([Put("k", "first", {})]))
        await asyncio.sleep(0.03)
        results = await asyncio.gather(
            *(records.write([Put("k", str(i), {})]) for i in range(10)), return_exceptions=True
        )
        await first
    assert [type(result) for result in results if result is not None] == [Internal]
    assert len(records.load("k")) == 10
    records.close()


async def test_unexpected_failure_neither_hangs_nor_ends_writing(path: Path) -> None:
    records = Records(path)
    with failpoints.armed("records.write=raise(surprise)"), pytest.raises(Internal, match="surprise"):
        await records.write([Put("k", "a", {})])
    await records.write([Put("k", "b", {})])
    assert set(records.load("k")) == {"b"}
    records.close()


async def test_writes_of_one_caller_commit_in_order(path: Path) -> None:
    records = Records(path)
    await asyncio.gather(*(records.write([Put("k", "a", {"n": n})]) for n in range(300)))
    assert records.get("k", "a") == {"n": 299}
    records.close()
    assert Records(path).get("k", "a") == {"n": 299}


async def test_concurrent_writes_share_commits(path: Path) -> None:
    """If the first is held for 0.2 s, the fifty behind it take one more commit, not fifty."""
    records = Records(path)
    with failpoints.armed("records.write=2*sleep(0.2)->error(EIO)"):
        first = asyncio.ensure_future(records.write([Put("k", "first", {})]))
        await asyncio.sleep(0.05)
        await asyncio.gather(first, *(records.write([Put("k", str(i), {})]) for i in range(50)))
    records.close()


async def test_cancelled_caller_does_not_undo_its_write(path: Path) -> None:
    records = Records(path)
    with failpoints.armed("records.write=sleep(0.05)"):
        task = asyncio.ensure_future(records.write([Put("k", "a", {})]))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    records.close()
    assert "a" in Records(path).load("k")


async def test_journal_is_found_by_time_and_trimmed(path: Path) -> None:
    records = Records(path)
    await records.write([Append("events", n * 10, {"n": n}) for n in range(10)])
    await records.write([Append("other", 0, {})])
    assert [e["n"] for e in records.scan("events", since_ns=20, until_ns=50)] == [2, 3, 4]
    await records.write([Trim("events", 3)])
    assert [e["n"] for e in records.scan("events")] == [7, 8, 9]
    await records.write([Trim("events", 3), Trim("other", 5)])
    assert len(records.scan("events")) == 3
    assert len(records.scan("other")) == 1
    records.close()


def test_closed_records_refuse_writes(path: Path) -> None:
    records = Records(path)
    records.write_sync([Put("k", "a", {})])
    records.close()
    records.close()
    with pytest.raises(Internal):
        records.write_sync([Put("k", "b", {})])


def test_durable_records_sync_every_commit(path: Path) -> None:
    records = Records(path, durable=True)
    records.write_sync([Put("k", "a", {})])
    (level,) = records._writer.execute("PRAGMA synchronous").fetchone()
    assert level == 2
    records.close()


def test_garbage_instead_of_a_database_is_named(path: Path) -> None:
    path.write_bytes(b"this is no database" * 1000)
    with pytest.raises(DataCorrupted, match=str(path)):
        Records(path)


def test_damage_in_the_middle_is_named(path: Path) -> None:
    records = Records(path)
    records.write_sync([Put("k", str(n), {"x": "y" * 500}) for n in range(200)])
    records.close()
    data = bytearray(path.read_bytes())
    for page in range(4, len(data) // 4096):
        data[page * 4096 : page * 4096 + 200] = b"\xff" * 200
    path.write_bytes(data)
    Path(f"{path}-wal").touch()
    with pytest.raises(DataCorrupted, match=str(path)):
        Records(path).load("k")


def test_later_schema_is_refused(path: Path) -> None:
    Records(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(DataCorrupted, match="99"):
        Records(path)


async def test_migration_runs_once_and_keeps_records(path: Path) -> None:
    records = Records(path)
    await records.write([Put("old", "a", {"v": 1})])
    records.close()
    runs = []

    def rename(connection: sqlite3.Connection) -> None:
        runs.append(1)
        connection.execute("UPDATE records SET kind = 'new' WHERE kind = 'old'")

    for _ in range(2):
        migrated = Records(path, migrations=[*MIGRATIONS, rename])
        assert migrated.load("new") == {"a": {"v": 1}}
        migrated.close()
    assert runs == [1]
