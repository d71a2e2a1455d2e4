"""Command lines of `pyd-oci`: runc's options, parsed without argparse (15 ms at import).

As in runc, an option may be written `--name value`, `--name=value` or with a single dash; parsing stops at
the first argument that is not an option, or at `--`.
"""

from __future__ import annotations

FLAG = ""
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final


class UsageError(Exception):
    """The command line is wrong; the message says how."""


class Options:
    """Option names to their kinds. `values`: take a value; `lists`: may be repeated; `flags`: take none."""

    __slots__ = ("aliases", "flags", "lists", "values")

    def __init__(
        self,
        *,
        flags: tuple[str, ...] = (),
        values: tuple[str, ...] = (),
        lists: tuple[str, ...] = (),
        aliases: dict[str, str] | None = None,
    ) -> None:
        self.flags, self.values, self.lists, self.aliases = flags, values, lists, aliases or {}


class Arguments:
    """What was given: flags as True, values as text, lists as lists; and the arguments after the options."""

    __slots__ = ("given", "rest")

    def __init__(self) -> None:
        self.given: dict[str, str | bool | list[str]] = {}
        self.rest: list[str] = []

    def flag(self, name: str) -> bool:
        return self.given.get(name) is True

    def text(self, name: str, default: str = "") -> str:
        value = self.given.get(name)
        return value if isinstance(value, str) else default

    def number(self, name: str, default: int) -> int:
        text = self.text(name)
        try:
            return int(text) if text else default
        except ValueError:
            raise UsageError(f"--{name} needs a number, not {text!r}") from None

    def texts(self, name: str) -> list[str]:
        value = self.given.get(name)
        return value if isinstance(value, list) else []

    def container(self, *, more: int = 0) -> str:
        """The container's id: the first argument, with at most `more` others (-1: any number)."""
        if not self.rest:
            raise UsageError("a container id is needed")
        if 0 <= more < len(self.rest) - 1:
            raise UsageError(f"unexpected argument {self.rest[more + 1]!r}")
        return self.rest[0]


_TRUE: Final = ("true", "1", "t")
_FALSE: Final = ("false", "0", "f")


def parse(argv: list[str], options: Options) -> Arguments:
    arguments = Arguments()
    index = 0
    while index < len(argv):
        word = argv[index]
        if word == "--":
            index += 1
            break
        if not word.startswith("-") or word == "-":
            break
        index += 1
        name, equals, value = word.lstrip("-").partition("=")
        name = options.aliases.get(name, name)
        if name in options.flags:
            _set_flag(arguments, name, value if equals else "true")
            continue
        if name not in options.values and name not in options.lists:
            raise UsageError(f"flag provided but not defined: {word.partition('=')[0]}")
        if not equals:
            if index >= len(argv):
                raise UsageError(f"flag needs an argument: {word}")
            value = argv[index]
            index += 1
        if name in options.lists:
            previous = arguments.given.setdefault(name, [])
            assert isinstance(previous, list)
            previous.append(value)
        else:
            arguments.given[name] = value
    arguments.rest = argv[index:]
    return arguments


def _set_flag(arguments: Arguments, name: str, value: str) -> None:
    if value.lower() not in _TRUE + _FALSE:
        raise UsageError(f"invalid boolean value {value!r} for --{name}")
    arguments.given[name] = value.lower() in _TRUE
