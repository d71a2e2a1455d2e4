"""The journal of events."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from daemon import events
from daemon.events import JOURNAL, EventLog
from storage.records import Append, Records


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
