"""Kept directories of clients: who comes first to a daemon, and who comes at the same time."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from daemon.build.session.contexts import TREE, Contexts


async def test_those_who_come_at_once_keep_what_they_make(tmp_path: Path) -> None:
    """What was left over is removed once, before anybody makes anything."""
    for round_ in range(20):
        root = tmp_path / str(round_)
        for left in range(30):
            (root / f"left{left}" / "1").mkdir(parents=True)

        async def fill(directory: Path, number: int, *_: Any) -> dict[str, Any]:
            await asyncio.sleep(0.005)  # while others look at what there is
            (directory / str(number)).mkdir()
            (directory / str(number) / TREE).mkdir()
            return {"number": number, "entries": 0, "size": 0}

        contexts = Contexts(root)
        made = await asyncio.gather(*(contexts.sync("x", str(each), [], fill) for each in range(6)))
        assert all(path.is_dir() for path, _ in made)
        assert len(contexts.all()) == 6
        for _, release in made:
            release()
