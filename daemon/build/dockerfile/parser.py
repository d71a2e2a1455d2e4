"""A Dockerfile: its statements to stages of typed instructions."""

from __future__ import annotations

from dataclasses import dataclass, replace

from daemon.build.dockerfile import directives, lexer, readers
from daemon.build.dockerfile import instructions as ins
from daemon.build.dockerfile.directives import Directives
from daemon.build.dockerfile.lexer import Lexed, Statement
from daemon.build.dockerfile.source import MAX_SIZE, DockerfileError, Source, Span, SyntaxProblem

MAX_STAGES = 2_000
MAX_INSTRUCTIONS = 20_000
"""Far beyond what anybody writes; what comes after costs by the square of some of them."""


@dataclass(frozen=True)
class Dockerfile:
    source: Source
    directives: Directives
    metaargs: tuple[ins.Arg, ...]
    stages: tuple[ins.Stage, ...]
    empty_continuations: tuple[Span, ...] = ()


def parse(data: bytes | str, name: str = "Dockerfile") -> Dockerfile:
    """The whole language. DockerfileError points at what is wrong."""
    if len(data) > MAX_SIZE:
        raise DockerfileError(f"the Dockerfile is larger than {MAX_SIZE >> 20} MiB")
    text = data.decode("utf-8", "surrogateescape") if isinstance(data, bytes) else data
    written = text.removeprefix("\ufeff").split("\n")
    lines = tuple(line.removesuffix("\r") for line in written) if "\r" in text else tuple(written)
    returns = frozenset(number for number, line in enumerate(written, 1) if line.endswith("\r"))
    source = Source(name, lines, returns)
    if "\0" in text:
        raise DockerfileError("the Dockerfile holds a NUL character", source)
    found = directives.read(source)
    lexed = lexer.lex(source, found)
    if not lexed.statements:
        raise DockerfileError("file with no instructions", source, [Span(1, 1)])
    return _Parsing(source, found, lexed).run()


def parse_trigger(text: str, escape: str, source: Source, span: Span) -> ins.Command:
    """One instruction of an ONBUILD, on its own."""
    statement = lexer.lex(Source(source.name, tuple(text.split("\n"))), Directives(escape=escape)).statements
    if len(statement) != 1:
        raise DockerfileError(f"invalid ONBUILD trigger: {text[:200]}", source, [span])
    parsing = _Parsing(source, Directives(escape=escape), Lexed())
    found = parsing.instruction(replace(statement[0], span=span))
    if isinstance(found, ins.Stage):
        raise DockerfileError("FROM isn't allowed as an ONBUILD trigger", source, [span])
    return found


class _Parsing:
    def __init__(self, source: Source, found: Directives, lexed: Lexed) -> None:
        self._source, self._directives, self._lexed = source, found, lexed
        self._escape = found.escape

    def run(self) -> Dockerfile:
        metaargs: list[ins.Arg] = []
        stages: list[ins.Stage] = []
        commands: list[list[ins.Command]] = []
        if len(self._lexed.statements) > MAX_INSTRUCTIONS:
            raise DockerfileError(f"more than {MAX_INSTRUCTIONS} instructions", self._source)
        for statement in self._lexed.statements:
            parsed = self.instruction(statement)
            if isinstance(parsed, ins.Stage):
                if len(stages) >= MAX_STAGES:
                    raise DockerfileError(f"more than {MAX_STAGES} stages", self._source, [parsed.span])
                stages.append(parsed)
                commands.append([])
            elif stages:
                commands[-1].append(parsed)
            elif isinstance(parsed, ins.Arg):
                metaargs.append(parsed)
            else:
                raise DockerfileError("no build stage in current context", self._source, [parsed.span])
        if not stages:
            raise DockerfileError("dockerfile contains no stages to build", self._source)
        filled = tuple(
            replace(stage, commands=tuple(own)) for stage, own in zip(stages, commands, strict=True)
        )
        empty = tuple(self._lexed.empty_continuations)
        return Dockerfile(self._source, self._directives, tuple(metaargs), filled, empty)

    def instruction(self, statement: Statement) -> ins.Command | ins.Stage:
        try:
            return readers.read(statement, self._escape)
        except DockerfileError as error:
            if error.source is not None:
                raise
            sentence = error.sentence
            if not isinstance(error, SyntaxProblem):
                sentence = f"dockerfile parse error on line {statement.span.first}: {sentence}"
            raise DockerfileError(sentence, self._source, [statement.span]) from None
