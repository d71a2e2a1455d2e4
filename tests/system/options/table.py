"""The trials of docker's options, the walk through its help, and the table made of both.

A *trial* belongs to one sub-command of `docker container`, names the options that it tries, and is run with
the stock client and with `pyd`. Two kinds: *effects* (a row: words for `create` and `run`, and what must
then be seen in `inspect` or inside the container; rows of one `group` share a container) and *scenes* (a
function, for what takes more than one command). docs/compatibility.md gets its container table from them:

    python -m tests.system.options.table --write
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.system.options.bench import Bench

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "compatibility.md"
BEGIN = "<!-- docker container: begin (made by `python -m tests.system.options.table --write`) -->"
END = "<!-- docker container: end -->"
OPTION = re.compile(r"^ +(?:(-\w), +)?(--[\w-]+)(?: +([\w-]+))?", re.MULTILINE)
COMMAND = re.compile(r"^  ([a-z]+) +[A-Z]", re.MULTILINE)


@dataclass(frozen=True)
class Effect:
    """One option of `create` and `run`: how it is given, and where its effect is."""

    option: str
    words: str
    """As typed; `{tmp}` is a scratch directory, `{disk}` a block device, `{net}` a network, `{other}` a container."""
    group: str
    shown: dict[str, Any] = field(default_factory=dict)
    """Path in `inspect` → value, or a predicate of it."""
    inside: tuple[str, str] = ("", "")
    """Command run in the container, and what its output must contain."""
    warning: str = ""
    """Where the kernel cannot do it the client says so with this, and the value is not kept."""
    note: str = ""

    @property
    def seen(self) -> str:
        places = [f"`{place}`" for place in self.shown]
        if self.inside[0]:
            places.append(f"inside: `{self.inside[0]}`")
        return ", ".join(places) + (f" ({self.note})" if self.note else "")


@dataclass(frozen=True)
class Scene:
    """A function that tries `options` of `command`; its docstring says what must be seen."""

    command: str
    options: tuple[str, ...]
    play: Callable[[Bench], None]
    refused: bool = False

    @property
    def name(self) -> str:
        return f"{self.command}-{self.play.__name__}"

    @property
    def seen(self) -> str:
        return " ".join((self.play.__doc__ or "").split()).rstrip(".")


class Scenes(list[Scene]):
    def scene(
        self, command: str, *options: str, refused: bool = False
    ) -> Callable[[Callable[[Bench], None]], Callable[[Bench], None]]:
        """Registers a function as the trial of these options (long names) of this sub-command."""

        def register(play: Callable[[Bench], None]) -> Callable[[Bench], None]:
            self.extend(Scene(part, options, play, refused) for part in command.split())
            return play

        return register


# -- what the client itself has


def help_of(*words: str) -> str:
    """The whole help: no daemon is asked, since the client hides what a daemon does not have."""
    environment = {**os.environ, "DOCKER_HOST": "unix:///nonexistent", "COLUMNS": "200"}
    command = ["docker", *words, "--help"]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout


def commands() -> list[str]:
    return COMMAND.findall(help_of("container").partition("Commands:")[2])


def options(*words: str) -> dict[str, str]:
    """Long option → short one or nothing; `--help` is every command's and not counted."""
    found = OPTION.findall(help_of(*words).partition("Options:")[2])
    return {long: short for short, long, _ in found if long != "--help"}


# -- the table


def rows(effects: Iterable[Effect], scenes: Iterable[Scene]) -> dict[str, list[tuple[str, str, str]]]:
    """Command → (option, how it is tried, what is seen)."""
    found: dict[str, list[tuple[str, str, str]]] = {}
    for effect in effects:
        for command in ("create", "run"):
            found.setdefault(command, []).append((effect.option, "works", effect.seen))
    for scene in scenes:
        for option in scene.options or ("",):
            verdict = "refused, as dockerd does" if scene.refused else "works"
            found.setdefault(scene.command, []).append((option, verdict, scene.seen))
    return {command: sorted(listed) for command, listed in sorted(found.items())}


def render(effects: Iterable[Effect], scenes: Iterable[Scene]) -> str:
    lines = [BEGIN, "", "| `docker container` | option | | what the test sees |", "|---|---|---|---|"]
    for command, listed in rows(effects, scenes).items():
        for option, verdict, seen in listed:
            shown = f"`{option}`" if option else ""
            lines.append(f"| {command} | {shown} | {verdict} | {seen.replace('|', chr(92) + '|')} |")
    return "\n".join([*lines, "", END])


def placed(text: str, table: str) -> str:
    """`text` with what is between the markers renewed, or the table at its end."""
    if BEGIN not in text:
        return f"{text.rstrip()}\n\n## Every option of `docker container`\n\n{table}\n".lstrip()
    head, _, rest = text.partition(BEGIN)
    return head + table + rest.partition(END)[2]


def main() -> None:
    from tests.system.options.trials import EFFECTS, SCENES

    text = DOCUMENT.read_text() if DOCUMENT.exists() else "# Compatibility\n"
    renewed = placed(text, render(EFFECTS, SCENES))
    if "--write" in sys.argv:
        DOCUMENT.write_text(renewed)
    else:
        sys.exit(renewed != text)


if __name__ == "__main__":
    main()
