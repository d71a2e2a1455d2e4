"""Where a kill would hurt the keeper most: tests put storage.failpoints.hit here, which this package must not know.

Use: `from daemon.runtime import failpoint`, then `failpoint.hit("keeper.VERB")`."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def nothing(point: str) -> None:
    return


hit: Callable[[str], None] = nothing
