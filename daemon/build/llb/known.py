"""Which vertices definitions' operations stand for."""

from __future__ import annotations

from collections.abc import MutableMapping

from daemon.build.graph import Output

Known = MutableMapping[tuple[str, int], Output]
"""(digest of the marshaled operation, its output's number) to what that is here."""
