"""Commands described by tables, and docker's flag syntax read against them.

A command's flags are one line each, `short|name|kind|default|help`:

    d|detach|bool||Run in the background
    e|env|list||Set environment variables
     |memory|bytes||Memory limit

`kind` chooses the converter in `values.CONVERTERS` or the command's own; `list`, `map` and every kind that ends
in `*` collect their values. A name that starts with `!` is accepted and not shown. A kind `bytes:swap` shows the
first word and converts by the second. The syntax is that of spf13/pflag: `--flag value`, `--flag=value`, `-it`,
`-p80`, `-p 80`, `-p=80`, `--` ends the flags, and where `interspersed` is false so does the first argument.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, NoReturn

from client import PROGRAM
from client.errors import ArgumentsError, UsageError
from client.values import CONVERTERS, Converter

if TYPE_CHECKING:
    from client.session import Session

_ZERO: dict[str, Any] = {"bool": False, "int": 0, "uint": 0, "uint16": 0, "bytes": 0, "swap": 0, "duration": 0,
                         "decimal": 0}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Flag:
    name: str
    short: str
    kind: str
    converter: str
    default: str
    help: str
    hidden: bool
    collects: bool

    @property
    def label(self) -> str:
        return f"-{self.short}, --{self.name}" if self.short else f"--{self.name}"

    def initial(self) -> Any:
        if self.collects:
            return []
        if self.default and self.converter in CONVERTERS:
            return CONVERTERS[self.converter](self.default)
        return self.default or _ZERO.get(self.converter, "")


@dataclass(slots=True)
class Parsed:
    """What a command line said: values by flag name, which flags were given, and the arguments."""

    values: dict[str, Any]
    changed: set[str] = field(default_factory=set)
    arguments: list[str] = field(default_factory=list)

    def on(self, name: str) -> bool:
        return bool(self.values[name])

    def text(self, name: str) -> str:
        return str(self.values[name])

    def number(self, name: str) -> int:
        return int(self.values[name])

    def items(self, name: str) -> list[Any]:
        return list(self.values[name])


Runner = Callable[["Session", Parsed], "int | None"]


@dataclass(frozen=True)
class Command:
    """One command: its names (`ps`, `container ls`), its usage line, its flags and what runs it."""

    names: tuple[str, ...]
    arguments: str
    summary: str
    run: Runner
    flags: str = ""
    least: int = 0
    most: int | None = None
    interspersed: bool = True
    converters: Mapping[str, Converter] = field(default_factory=dict)
    completes: str = ""
    """What shell completion offers for its arguments: containers, running, images, networks, volumes or nothing."""

    @property
    def table(self) -> list[Flag]:
        return list(parse_table(self.flags))

    def usage(self, name: str) -> str:
        return " ".join(
            filter(None, (PROGRAM, name, "[OPTIONS]" if self.flags.strip() else "", self.arguments))
        )


@cache
def parse_table(text: str) -> tuple[Flag, ...]:
    flags = []
    for line in text.strip().splitlines():
        short, name, kind, default, description = (part.strip() for part in line.split("|", 4))
        hidden, name = name.startswith("!"), name.lstrip("!")
        shown, _, converter = kind.partition(":")
        collects = shown in ("list", "map", "filter") or shown.endswith("*")
        shown = shown.rstrip("*")
        flags.append(Flag(name, short, shown, converter or shown, default, description, hidden, collects))
    return tuple(flags)


def _hint(command: Command, name: str) -> str:
    return f"\n\nUsage:  {command.usage(name)}\n\nRun '{PROGRAM} {name} --help' for more information"


class _Reader:
    """One pass over the arguments of one command."""

    def __init__(self, command: Command, name: str) -> None:
        self.command, self.name = command, name
        self.flags = command.table
        self.long = {flag.name: flag for flag in self.flags}
        self.short = {flag.short: flag for flag in self.flags if flag.short}
        self.parsed = Parsed({flag.name: flag.initial() for flag in self.flags})

    def fail(self, message: str) -> NoReturn:
        raise UsageError(message + _hint(self.command, self.name))

    def set(self, flag: Flag, text: str) -> None:
        convert = self.command.converters.get(flag.converter) or CONVERTERS.get(flag.converter)
        try:
            value = convert(text) if convert else text
        except ValueError as error:
            self.fail(f'invalid argument "{text}" for "{flag.label}" flag: {error}')
        if flag.collects:
            self.parsed.values[flag.name].append(value)
        else:
            self.parsed.values[flag.name] = value
        self.parsed.changed.add(flag.name)

    def read_long(self, argument: str, rest: list[str]) -> None:
        name, equals, value = argument[2:].partition("=")
        flag = self.long.get(name)
        if flag is None:
            if name == "help":
                raise HelpWanted(self.command, self.name)
            self.fail(f"unknown flag: --{name}")
        if equals:
            self.set(flag, value)
        elif flag.kind == "bool":
            self.set(flag, "true")
        elif rest:
            self.set(flag, rest.pop(0))
        else:
            self.fail(f"flag needs an argument: --{name}")

    def read_short(self, argument: str, rest: list[str]) -> None:
        letters = argument[1:]
        while letters:
            flag = self.short.get(letters[0])
            if flag is None:
                if letters[0] == "h":
                    raise HelpWanted(self.command, self.name)
                self.fail(f"unknown shorthand flag: {letters[0]!r} in -{letters}")
            if len(letters) > 2 and letters[1] == "=":
                self.set(flag, letters[2:])
                return
            if flag.kind == "bool":
                self.set(flag, "true")
                letters = letters[1:]
                continue
            if len(letters) > 1:
                self.set(flag, letters[1:])
            elif rest:
                self.set(flag, rest.pop(0))
            else:
                self.fail(f"flag needs an argument: {letters[0]!r} in -{letters}")
            return

    def read(self, arguments: Sequence[str]) -> Parsed:
        rest = list(arguments)
        while rest:
            argument = rest.pop(0)
            if argument == "--":
                self.parsed.arguments += rest
                break
            if argument.startswith("--"):
                self.read_long(argument, rest)
            elif len(argument) > 1 and argument[0] == "-":
                self.read_short(argument, rest)
            else:
                self.parsed.arguments.append(argument)
                if not self.command.interspersed:
                    self.parsed.arguments += rest
                    break
        return self.parsed


class HelpWanted(Exception):
    def __init__(self, command: Command, name: str) -> None:
        super().__init__(name)
        self.command, self.name = command, name


def parse(command: Command, name: str, arguments: Sequence[str]) -> Parsed:
    """Read a command line; UsageError, ArgumentsError or HelpWanted when there is nothing to run."""
    parsed = _Reader(command, name).read(arguments)
    _check_count(command, name, len(parsed.arguments))
    return parsed


def _check_count(command: Command, name: str, count: int) -> None:
    least, most = command.least, command.most
    if count >= least and (most is None or count <= most):
        return
    full = f"{PROGRAM} {name}"
    if most == 0:
        problem = f"'{full}' accepts no arguments"
    elif most is not None and least == most:
        problem = f"'{full}' requires {least} argument{'s' * (least != 1)}"
    elif count < least and (most is None or most > least):
        kind = "at least " if most is None else f"at least {least} and at most {most} arguments"
        problem = (f"'{full}' requires at least {least} argument{'s' * (least != 1)}" if most is None
                   else f"'{full}' requires {kind}")  # fmt: skip
    else:
        problem = f"'{full}' requires at most {most} argument{'s' * (most != 1)}"
    verb = "Run" if most == 0 or least == most else "See"
    raise ArgumentsError(
        f"{PROGRAM}: {problem}\n\nUsage:  {command.usage(name)}\n\n{verb} '{full} --help' for more information"
    )


def help_text(command: Command, name: str, width: int = 80) -> str:
    """The text of `--help`, laid out as docker's."""
    lines = [f"Usage:  {command.usage(name)}", "", command.summary]
    if len(command.names) > 1:
        ordered = sorted(command.names, key=lambda alias: (" " not in alias, alias))
        lines += ["", "Aliases:", "  " + ", ".join(f"{PROGRAM} {alias}" for alias in ordered)]
    shown = sorted((flag for flag in command.table if not flag.hidden), key=lambda flag: flag.name)
    if shown:
        lines += ["", "Options:", *flag_lines(shown, width)]
    return "\n".join(lines)


def flag_lines(flags: Sequence[Flag], width: int) -> list[str]:
    import textwrap

    heads = []
    for flag in flags:
        kind = "" if flag.kind == "bool" else f" {flag.kind}"
        heads.append((f"  -{flag.short}, " if flag.short else "      ") + f"--{flag.name}{kind}")
    column = max(map(len, heads)) + 3
    lines = []
    for flag, head in zip(flags, heads, strict=True):
        text = flag.help + _shown_default(flag)
        wrapped = textwrap.wrap(text, max(width - column, 24)) or [""]
        lines.append(head.ljust(column) + wrapped[0])
        lines += [" " * column + more for more in wrapped[1:]]
    return lines


def _shown_default(flag: Flag) -> str:
    if not flag.default or flag.default in ("false", "0"):
        return ""
    return f' (default "{flag.default}")' if flag.kind == "string" else f" (default {flag.default})"
