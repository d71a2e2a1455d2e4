"""What the engine remembers: JSON records by kind and key, and journals, in one SQLite file.

    records     containers, images, networks ...    (kind, key) → JSON        get, load; Put, Delete
    journal     events                              ordered, found by time    scan; Append, Trim

Writes: `await records.write([Put(...), Append(...)])` applies all or none and returns when committed. One
thread does all writing; what has queued up while it was busy becomes one transaction (group commit), so
a hundred callers cost one commit, and the event loop never waits for a disk. Calls commit in the order
they were made. If a group fails, each of its calls is tried alone: a caller only ever sees its own error.

Reads are synchronous. A kind is read from SQLite once and answered from memory afterwards; what is in
memory is what is committed. Values handed out are shared: don't change them.

Durability: the log is write-ahead (WAL) with synchronous=NORMAL. A commit is then one write(2) to the
log: it survives anything that happens to this process (kill -9), and a power cut can never make the file
inconsistent, but it may take back the last commits, as SQLite fsyncs the log only at checkpoints
(sqlite.org/wal.html, "Performance Considerations"). That is enough for an engine: a power cut ends the
containers whose states were lost too. `durable=True` (synchronous=FULL) fsyncs each group.

Checkpoints, which fsync, are made by the writing thread after it has answered, never inside a commit.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage import failpoints
from storage.disk import is_full, reserve
from storage.errors import DataCorrupted, Internal, NoSpace, PydError

_MAX_GROUP = 512
_CHECKPOINT = 4 << 20
"""Bytes of log from which a checkpoint is worth its fsyncs; SQLite's own default."""
_RESERVE = _CHECKPOINT + (1 << 20)
"""Bytes of log whose blocks are taken beforehand: on a full disk removals, which make room, are recorded."""


@dataclass(frozen=True, slots=True)
class Put:
    """Sets records[kind][key]; the value is serialised when write() is called."""

    kind: str
    key: str
    value: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Delete:
    """Removes records[kind][key]; nothing when it is not there."""

    kind: str
    key: str


@dataclass(frozen=True, slots=True)
class Append:
    """Adds an entry to a journal: kept in order, found by time."""

    journal: str
    time_ns: int
    value: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Trim:
    """Drops all but the newest `keep` entries of a journal."""

    journal: str
    keep: int


Mutation = Put | Delete | Append | Trim

Migration = Callable[[sqlite3.Connection], None]


def _create(connection: sqlite3.Connection) -> None:
    connection.execute(
        "CREATE TABLE records (kind TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL,"
        " PRIMARY KEY (kind, key)) WITHOUT ROWID"
    )
    connection.execute(
        "CREATE TABLE journal (sequence INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL,"
        " time_ns INTEGER NOT NULL, value TEXT NOT NULL)"
    )
    connection.execute("CREATE INDEX journal_by_time ON journal (name, time_ns)")


MIGRATIONS: tuple[Migration, ...] = (_create,)
"""Step n turns schema version n into n + 1 (PRAGMA user_version). Only ever appended to."""


@dataclass(slots=True)
class _Batch:
    """One write() call: what to execute, what becomes of the memory, and whom to tell (None: it is committed)."""

    statements: list[tuple[str, tuple[Any, ...]]]
    effects: list[tuple[str, str, str | None]]
    done: Callable[[BaseException | None], None]


class Records:
    """See the module's text. One instance per file and process."""

    def __init__(
        self, path: Path, *, durable: bool = False, migrations: Sequence[Migration] = MIGRATIONS
    ) -> None:
        """Opens or creates. DataCorrupted naming the file when it is damaged or from a later version."""
        self._path = path
        self._lock = threading.Lock()
        """Guards the reading connection and the memory."""
        self._kinds: dict[str, dict[str, dict[str, Any]]] = {}
        self._queue: queue.SimpleQueue[_Batch | None] = queue.SimpleQueue()
        self._closed = False
        self._log = Path(f"{path}-wal")
        with self._explaining(), contextlib.ExitStack() as opened:
            left_open = self._log.exists()
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._writer = opened.enter_context(contextlib.closing(self._connect(durable)))
            self._check(left_open)
            self._migrate(migrations)
            self._reader = opened.enter_context(contextlib.closing(self._connect(durable)))
            with contextlib.suppress(FileNotFoundError):
                reserve(self._log, _RESERVE)
            self._close = opened.pop_all().close
        self._thread = threading.Thread(target=self._run, name="records", daemon=True)
        self._thread.start()

    # Reading

    def get(self, kind: str, key: str) -> dict[str, Any] | None:
        """The committed value, shared: not to be changed."""
        with self._lock:
            return self._kind(kind).get(key)

    def load(self, kind: str) -> dict[str, dict[str, Any]]:
        """All committed records of a kind by key; the dictionary is the caller's, the values are shared."""
        with self._lock:
            return dict(self._kind(kind))

    def scan(
        self,
        journal: str,
        *,
        since_ns: int | None = None,
        until_ns: int | None = None,
        limit: int = -1,
    ) -> list[dict[str, Any]]:
        """A journal's entries, oldest first, since <= time < until; at most `limit` of them."""
        query = "SELECT value FROM journal WHERE name = ?"
        arguments: list[Any] = [journal]
        if since_ns is not None:
            query += " AND time_ns >= ?"
            arguments.append(since_ns)
        if until_ns is not None:
            query += " AND time_ns < ?"
            arguments.append(until_ns)
        with self._lock, self._explaining():
            rows = self._reader.execute(query + " ORDER BY sequence LIMIT ?", [*arguments, limit]).fetchall()
        return [json.loads(value) for (value,) in rows]

    def _kind(self, kind: str) -> dict[str, dict[str, Any]]:
        """Read while holding the lock, so a later commit's effect on the memory comes after it."""
        found = self._kinds.get(kind)
        if found is None:
            with self._explaining():
                rows = self._reader.execute("SELECT key, value FROM records WHERE kind = ?", (kind,))
                found = self._kinds[kind] = {key: json.loads(value) for key, value in rows}
        return found

    # Writing

    async def write(self, mutations: Sequence[Mutation]) -> None:
        """Applies all or none; returns when committed. Calls commit in the order they were made.

        Cancelling the caller does not take the write back.
        """
        loop = asyncio.get_running_loop()
        committed = loop.create_future()

        def done(error: BaseException | None) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has been closed meanwhile
                loop.call_soon_threadsafe(_settle, committed, error)

        self._submit(mutations, done)
        await committed

    def write_sync(self, mutations: Sequence[Mutation]) -> None:
        """The same for threads and start-up."""
        committed: Future[None] = Future()
        self._submit(mutations, lambda error: _settle(committed, error))
        committed.result()

    def close(self) -> None:
        """Commits what was handed over, then closes. Idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._queue.put(None)
        self._thread.join()
        self._close()

    def _submit(self, mutations: Sequence[Mutation], done: Callable[[BaseException | None], None]) -> None:
        batch = _Batch([], [], done)
        for mutation in mutations:
            _add(batch, mutation)
        with self._lock:
            if self._closed:
                raise Internal(f"{self._path} is closed")
            self._queue.put(batch)

    def _run(self) -> None:
        """The writer thread: takes what is queued, commits it together, tells everybody."""
        while (first := self._queue.get()) is not None:
            group = [first]
            last = False
            while len(group) < _MAX_GROUP and not last:
                try:
                    following = self._queue.get_nowait()
                except queue.Empty:
                    break
                if following is None:
                    last = True
                else:
                    group.append(following)
            self._commit_group(group)
            self._checkpoint()
            if last:
                return

    def _checkpoint(self) -> None:
        """Moves the log into the file when it has grown; a failure only means that it goes on growing."""
        with contextlib.suppress(OSError, sqlite3.Error):
            if self._log.stat().st_size > _CHECKPOINT:
                self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                reserve(self._log, _RESERVE)

    def _commit_group(self, group: list[_Batch]) -> None:
        try:
            self._commit(group)
        except Exception as error:
            if len(group) == 1:
                known = error if isinstance(error, PydError) else Internal(f"write {self._path}: {error}")
                group[0].done(known)
                return
            for batch in group:
                self._commit_group([batch])
            return
        for batch in group:
            batch.done(None)

    def _commit(self, group: list[_Batch]) -> None:
        """One transaction; the memory follows it under the lock, before anybody is told."""
        with self._explaining():
            try:
                self._writer.execute("BEGIN IMMEDIATE")
                for batch in group:
                    for statement, arguments in batch.statements:
                        self._writer.execute(statement, arguments)
                failpoints.hit("records.write")
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise
        # A kind read for the first time just now has these values already: to set them again is no harm.
        with self._lock:
            self._remember(group)
        failpoints.hit("records.written")

    def _remember(self, group: list[_Batch]) -> None:
        for batch in group:
            for kind, key, text in batch.effects:
                known = self._kinds.get(kind)
                if known is None:
                    continue
                if text is None:
                    known.pop(key, None)
                else:
                    known[key] = json.loads(text)

    # The file

    def _connect(self, durable: bool) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=10)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        return connection

    def _check(self, left_open: bool) -> None:
        """Looks through the whole file only if the last process did not close it."""
        if left_open:
            (result,) = self._writer.execute("PRAGMA quick_check(1)").fetchone()
            if result != "ok":
                raise sqlite3.DatabaseError(result)

    def _migrate(self, migrations: Sequence[Migration]) -> None:
        (version,) = self._writer.execute("PRAGMA user_version").fetchone()
        if version > len(migrations):
            raise DataCorrupted(
                f"{self._path} has schema version {version}, this pyd knows up to {len(migrations)}:"
                " it was written by a later one"
            )
        for number, migration in enumerate(migrations[version:], start=version + 1):
            self._writer.execute("BEGIN IMMEDIATE")
            migration(self._writer)
            self._writer.execute(f"PRAGMA user_version = {number}")
            self._writer.execute("COMMIT")

    @contextlib.contextmanager
    def _explaining(self) -> Iterator[None]:
        """SQLite's and the system's errors as ours, naming the file."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            name = getattr(error, "sqlite_errorname", "")
            if name == "SQLITE_FULL" or (name.startswith("SQLITE_IOERR") and self._disk_is_full()):
                raise NoSpace(f"write {self._path}: no space left on device") from error
            if name in ("", "SQLITE_ERROR", "SQLITE_NOTADB") or name.startswith("SQLITE_CORRUPT"):
                raise DataCorrupted(f"{self._path} is damaged: {error}") from error
            raise Internal(f"{self._path}: {error} ({name})") from error
        except json.JSONDecodeError as error:
            raise DataCorrupted(f"{self._path} is damaged: {error}") from error
        except OSError as error:
            kind = NoSpace if is_full(error) else Internal
            raise kind(f"write {self._path}: {error.strerror}") from error

    def _disk_is_full(self) -> bool:
        """The shared-memory file can't grow either, which SQLite reports as an input/output error."""
        return os.statvfs(self._path.parent).f_bavail == 0


def _settle(committed: asyncio.Future[None] | Future[None], error: BaseException | None) -> None:
    """Tell the one who waits, if he still does."""
    if committed.done():
        return
    if error is None:
        committed.set_result(None)
    else:
        committed.set_exception(error)


def _add(batch: _Batch, mutation: Mutation) -> None:
    match mutation:
        case Put(kind, key, value):
            text = json.dumps(value, separators=(",", ":"))
            batch.statements.append(("INSERT OR REPLACE INTO records VALUES (?, ?, ?)", (kind, key, text)))
            batch.effects.append((kind, key, text))
        case Delete(kind, key):
            batch.statements.append(("DELETE FROM records WHERE kind = ? AND key = ?", (kind, key)))
            batch.effects.append((kind, key, None))
        case Append(journal, time_ns, value):
            text = json.dumps(value, separators=(",", ":"))
            batch.statements.append(
                ("INSERT INTO journal (name, time_ns, value) VALUES (?, ?, ?)", (journal, time_ns, text))
            )
        case Trim(journal, keep):
            batch.statements.append(
                (
                    "DELETE FROM journal WHERE name = ?1 AND sequence <= (SELECT sequence FROM journal"
                    " WHERE name = ?1 ORDER BY sequence DESC LIMIT 1 OFFSET ?2)",
                    (journal, keep),
                )
            )
