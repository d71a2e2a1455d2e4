"""The journal of events."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path

from daemon import events
from daemon.clock import now_ns
from daemon.events import JOURNAL, EventLog
from storage.records import Append, Mutation, Records


async def test_daemons_that_never_live_long_do_not_let_the_journal_grow(tmp_path: Path) -> None:
    with contextlib.closing(Records(tmp_path / "records")) as records:
        old = [Append(JOURNAL, number, {"number": number}) for number in range(events.KEPT + 500)]
        await records.write(old)
        EventLog(records).publish("container", "start", "a", {})
        for _ in range(500):
            if records.scan(JOURNAL, limit=1)[0].get("number") != 0:
                break
            await asyncio.sleep(0.01)
        kept = records.scan(JOURNAL)
        assert len(kept) == events.KEPT
        assert kept[-1]["Action"] == "start"


async def test_events_are_gathered_into_one_commit_and_none_is_missed_by_a_reader(tmp_path: Path) -> None:
    commits = []

    class Counted(Records):
        async def write(self, mutations: Sequence[Mutation]) -> None:
            commits.append(len([one for one in mutations if isinstance(one, Append)]))
            await super().write(mutations)

    with contextlib.closing(Counted(tmp_path / "records")) as records:
        log = EventLog(records)
        for number in range(3):
            log.publish("container", "start", f"c{number}", {})
            await asyncio.sleep(0)
        past = log.subscribe(since=1, until=now_ns(), filters={})
        assert [event["Actor"]["ID"] async for event in past] == ["c0", "c1", "c2"]
        assert commits == [3]
        log.publish("container", "die", "c3", {})
        await asyncio.sleep(events.GATHER * 1.5)  # under way, or committed
        log.publish("container", "die", "c4", {})
        since = log.subscribe(since=1, until=now_ns(), filters={"event": ["die"]})
        assert [event["Actor"]["ID"] async for event in since] == ["c3", "c4"]
        await log.close()
