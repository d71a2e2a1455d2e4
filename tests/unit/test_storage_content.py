"""The content store: what it says it has is whole, whatever was interrupted."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from storage import failpoints
from storage.content import ContentStore
from storage.errors import DataCorrupted, InvalidArgument, NoSpace, NotFound


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@pytest.fixture
def store(tmp_path: Path) -> ContentStore:
    return ContentStore(tmp_path / "content")


def leftovers(store: ContentStore) -> list[Path]:
    return list(store.ingest.iterdir())


def test_committed_blob_can_be_read_back(store: ContentStore) -> None:
    data = os.urandom(100_000)
    with store.writer(sha256(data), len(data)) as writer:
        writer.write(data[:1])
        writer.write(memoryview(data)[1:])
        assert writer.commit() == sha256(data)
    assert store.read(sha256(data)) == data
    assert store.size(sha256(data)) == len(data)
    assert list(store.walk()) == [(sha256(data), len(data))]
    assert leftovers(store) == []


def test_blob_is_invisible_until_commit(store: ContentStore) -> None:
    with store.writer(sha256(b"x")) as writer:
        writer.write(b"x")
        assert not store.has(sha256(b"x"))
    assert not store.has(sha256(b"x"))
    assert leftovers(store) == []


def test_wrong_digest_is_refused_and_leaves_nothing(store: ContentStore) -> None:
    with pytest.raises(DataCorrupted, match="does not match"), store.writer(sha256(b"x")) as writer:
        writer.write(b"y")
        writer.commit()
    assert list(store.walk()) == []
    assert leftovers(store) == []


def test_too_many_bytes_are_refused_at_once(store: ContentStore) -> None:
    with pytest.raises(DataCorrupted, match="longer than the 3 bytes"), store.writer(None, 3) as writer:
        writer.write(b"1234")


def test_too_few_bytes_are_refused(store: ContentStore) -> None:
    with pytest.raises(DataCorrupted, match="3 bytes instead of 4"), store.writer(None, 4) as writer:
        writer.write(b"123")
        writer.commit()


def test_sha512_is_a_digest_too(store: ContentStore) -> None:
    digest = f"sha512:{hashlib.sha512(b'x').hexdigest()}"
    assert store.add(b"x", digest) == digest
    assert store.read(digest) == b"x"


@pytest.mark.parametrize(
    "digest",
    [
        "",
        "sha256:",
        "sha256:" + "A" * 64,
        "sha256:../../../etc/passwd",
        "md5:" + "0" * 32,
        "sha256:" + "0" * 65,
    ],
)
def test_what_is_no_digest_never_becomes_a_path(store: ContentStore, digest: str) -> None:
    with pytest.raises(InvalidArgument):
        store.path(digest)


def test_missing_blob_is_not_found(store: ContentStore) -> None:
    for method in (store.read, store.size, store.open):
        with pytest.raises(NotFound):
            method(sha256(b"nothing"))
    store.delete(sha256(b"nothing"))


def test_damaged_blob_is_noticed_when_read(store: ContentStore) -> None:
    digest = store.add(b"truth")
    store.path(digest).write_bytes(b"wrong")
    with pytest.raises(DataCorrupted):
        store.read(digest)


def test_two_writers_of_one_blob_both_succeed(store: ContentStore) -> None:
    with store.writer() as one, store.writer() as other:
        one.write(b"same")
        other.write(b"same")
        assert one.commit() == other.commit()
    assert store.read(sha256(b"same")) == b"same"


def test_full_disk_at_commit_is_no_space_and_leaves_nothing(store: ContentStore) -> None:
    with pytest.raises(NoSpace), failpoints.armed("content.commit=error(ENOSPC)"):
        store.add(b"x")
    assert leftovers(store) == []
    assert list(store.walk()) == []


@pytest.mark.parametrize(
    ("rule", "there"), [("content.commit=kill", False), ("content.committed=kill", True)]
)
def test_killed_writer_leaves_all_or_nothing(tmp_path: Path, rule: str, there: bool) -> None:
    root = tmp_path / "content"
    code = f"from pathlib import Path; from storage.content import *; ContentStore(Path({str(root)!r})).add(b'x')"
    environment = {**os.environ, failpoints.VARIABLE: rule}
    result = subprocess.run([sys.executable, "-c", code], env=environment, check=False)
    assert result.returncode == -signal.SIGKILL
    store = ContentStore(root)
    assert store.has(sha256(b"x")) is there
    assert leftovers(store) == []


def test_failpoints_count_and_continue() -> None:
    with failpoints.armed("a.b=1*off->2*error(EIO)->off"):
        failpoints.hit("a.b")
        for _ in range(2):
            with pytest.raises(OSError) as caught:
                failpoints.hit("a.b")
            assert caught.value.errno == errno.EIO
        failpoints.hit("a.b")
        failpoints.hit("something.else")
    failpoints.hit("a.b")


@pytest.mark.parametrize("rule", ["a.b", "a.b=explode", "a.b=error(ENOTHING)", "a.b=sleep(x)"])
def test_failpoint_rules_that_mean_nothing_are_refused(rule: str) -> None:
    with pytest.raises(ValueError):
        failpoints.parse(rule)
