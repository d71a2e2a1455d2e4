"""What any of a build's clients may have: the first one that has it is asked no further."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from storage.errors import NotFound

if TYPE_CHECKING:
    from daemon.build.session.sessions import Session


async def secret(sessions: Sequence[Session], id: str) -> bytes | None:
    """None when nobody has it."""
    for session in sessions:
        if (data := await session.secret(id)) is not None:
            return data
    return None


async def agent(
    sessions: Sequence[Session], id: str, **looks: int
) -> tuple[Path, Callable[[], Awaitable[None]]]:
    """An ssh agent's socket, and what closes it. NotFound, in the last one's words, when nobody forwards it.

    `looks`: its owner and mode (Session.open_agent).
    """
    missing = NotFound(f'no SSH key "{id}" forwarded from the client')
    for session in sessions:
        try:
            return await session.open_agent(id, **looks)
        except NotFound as error:
            missing = error
    raise missing
