"""The daemon's progress messages (pull, push, load, import): bars on a terminal, plain lines elsewhere.

On a terminal each `id` has its own line, rewritten in place by moving the cursor; without one, messages that only
carry progress are left out (the format of moby's `jsonmessage`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from typing import Any, TextIO

from client.errors import ClientError
from client.render.units import human_size

_BAR = 50


def bar(detail: dict[str, Any], width: int) -> str:
    """`[=====>     ]  1.2MB/3.4MB`; without the bar on terminals of at most 110 columns."""
    current, total = int(detail.get("current") or 0), int(detail.get("total") or 0)
    if current <= 0 and total <= 0:
        return ""
    if total <= 0:
        return f"{current} {detail['units']}" if detail.get("units") else f"{human_size(current):>8}"
    filled = min(int(current / total * 100) // 2, _BAR)
    box = f"[{'=' * filled}>{' ' * (_BAR - filled)}] " if width > 110 else ""
    numbers = f"{human_size(current):>8}"
    return box + (f"{numbers}/{human_size(total)}" if current <= total else numbers)


class ProgressScreen:
    """Shows messages on one output."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._terminal = out.isatty()
        self._lines: dict[str, int] = {}
        self._count = 0
        self._width = shutil.get_terminal_size((200, 24)).columns if self._terminal else 200

    def show(self, message: dict[str, Any]) -> None:
        if error := message.get("errorDetail") or message.get("error"):
            text = error.get("message", "") if isinstance(error, dict) else str(error)
            raise ClientError(text)
        detail = message.get("progressDetail") or {}
        shown = bar(detail, self._width) or message.get("progress", "")
        identifier = message.get("id", "")
        if not self._terminal and shown:
            return
        if self._terminal and identifier and (shown or "progressDetail" in message):
            self._in_place(identifier, self._text(message, shown))
        else:
            self._lines.clear()
            self._out.write(self._text(message, shown) + ("" if "stream" in message else "\n"))
        self._out.flush()

    def _text(self, message: dict[str, Any], shown: str) -> str:
        prefix = f"{message['id']}: " if message.get("id") else ""
        if "stream" in message:
            return prefix + str(message["stream"])
        return prefix + str(message.get("status", "")) + (f" {shown}" if shown and self._terminal else "")

    def _in_place(self, identifier: str, text: str) -> None:
        if identifier not in self._lines:
            self._lines[identifier] = len(self._lines)
            self._out.write("\n")
        above = len(self._lines) - self._lines[identifier]
        self._out.write(f"\x1b[{above}A\x1b[2K\r{text}\r\x1b[{above}B")


def display(messages: Iterable[dict[str, Any]], out: TextIO) -> list[Any]:
    """Show all messages; returns what came as `aux` (an image's ID, a digest)."""
    screen = ProgressScreen(out)
    extras = []
    for message in messages:
        if "aux" in message:
            extras.append(message["aux"])
        else:
            screen.show(message)
    return extras


def drain(messages: Iterable[dict[str, Any]]) -> list[Any]:
    """The same, silently: errors still raise."""
    with open(os.devnull, "w") as nothing:
        return display(messages, nothing)
