"""Dockerfiles and .dockerignore beside second readers: dockerfile-parse for statements and ENV, pathspec for patterns.

Only what the two sides mean alike is generated. Left out, with BuildKit's answer as ours:
- heredocs, `escape=` and continuations of comments' kind, which dockerfile-parse does not know;
- a lone `$` and variables' modifiers (`${name:-x}` and the like), which it does not know either;
- escapes within quotes;
- patterns with a trailing slash (git: directories only), a last name `*` (git: nothing below);
- classes, and `**` inside a name.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dockerfile_parse import DockerfileParser
from hypothesis import strategies as st
from pathspec import PathSpec

from daemon.build.dockerfile import instructions as ins
from daemon.build.dockerfile.directives import Directives
from daemon.build.dockerfile.ignore import Ignore
from daemon.build.dockerfile.lexer import lex
from daemon.build.dockerfile.parser import parse
from daemon.build.dockerfile.source import Source
from daemon.build.dockerfile.words import Lexer
from tests.fuzz.running import all_night, once

EXAMPLES = 80
NAMES = ("RUN", "run", "COPY", "ENV", "LABEL", "CMD", "WORKDIR", "Expose", "USER")
WORDS = st.text(alphabet="ab/.=-\"'$ é", min_size=1, max_size=12).map(str.strip).filter(bool)
BREAKS = st.sampled_from(["", " \\\n  ", "\\\n", " \\\n# a comment\n  "])


@st.composite
def statements(draw: st.DrawFn) -> str:
    """Instructions with continuations, comments and empty lines between them."""
    lines = ["FROM scratch"]
    for _ in range(draw(st.integers(0, 6))):
        lines += draw(st.sampled_from([[], [""], ["# comment"], ["  # indented"]]))
        words = [draw(WORDS)]
        for _ in range(draw(st.integers(0, 3))):
            words.append(draw(BREAKS) + draw(WORDS))
        lines.append(f"{draw(st.sampled_from(['', '  ']))}{draw(st.sampled_from(NAMES))} {' '.join(words)}")
    return "\n".join(lines) + draw(st.sampled_from(["", "\n", "\n\n"]))


def theirs(text: str) -> list[dict[str, Any]]:
    parser = DockerfileParser(fileobj=io.BytesIO(text.encode()))
    return [found for found in parser.structure if found["instruction"] != "COMMENT"]


def check_statements(text: str) -> None:
    ours = lex(Source("Dockerfile", tuple(text.splitlines())), Directives()).statements
    others = theirs(text)
    assert [(s.name.upper(), s.span.first, s.span.last) for s in ours] == [
        (o["instruction"], o["startline"] + 1, o["endline"] + 1) for o in others
    ], text
    for one, other in zip(ours, others, strict=True):
        assert one.rest.split() == other["value"].split(), text


VALUES = st.lists(
    st.sampled_from(["x", "y z", "$A", "${A}", "'q $A'", '"r $A"', "-", "/", "é", "\\$A", "$C."]),
    max_size=5,
).map("".join)


@st.composite
def environments(draw: st.DrawFn) -> str:
    values = [draw(VALUES) for _ in range(3)]
    quoted = [value if "y z" not in value else value.replace("y z", '"y z"') for value in values]
    return f"FROM scratch\nENV A=1\nENV B={quoted[0]} C={quoted[1]}\nENV D={quoted[2]}\n"


def check_environment(text: str) -> None:
    known: dict[str, str] = {}
    lexer = Lexer()
    for command in parse(text).stages[0].commands:
        assert isinstance(command, ins.Env)
        before = dict(known)
        for pair in command.pairs:
            known[pair.key] = lexer.word(pair.value, before)
    parser = DockerfileParser(fileobj=io.BytesIO(text.encode()))
    assert dict(parser.envs) == known, text


COMPONENT = st.text(alphabet="ab*?.", min_size=1, max_size=4).filter(
    lambda text: "**" not in text and text.strip(".")
)
PATTERN = st.builds(
    lambda deep, parts, negated: ("!" if negated else "") + "/" + ("**/" if deep else "") + "/".join(parts),
    st.booleans(),
    st.lists(COMPONENT, min_size=1, max_size=3).filter(lambda parts: parts[-1] != "*"),
    st.booleans(),
)
PATHS = st.lists(
    st.text(alphabet="ab.", min_size=1, max_size=3).filter(lambda text: text.strip(".")),
    min_size=1,
    max_size=4,
).map("/".join)


def check_ignore(patterns: list[str], paths: list[str]) -> None:
    """git's patterns are anchored by their leading slash; Docker's always are."""
    ours = Ignore.of("\n".join(patterns))
    other = PathSpec.from_lines("gitignore", patterns)
    for path in paths:
        assert ours.ignored(path) == other.match_file(path), (patterns, path)


def test_statements_as_dockerfile_parse_reads_them() -> None:
    once(check_statements, EXAMPLES, text=statements())


def test_environments_as_dockerfile_parse_reads_them() -> None:
    once(check_environment, EXAMPLES, text=environments())


def test_ignore_files_as_pathspec_reads_them() -> None:
    once(check_ignore, EXAMPLES, patterns=st.lists(PATTERN, max_size=5), paths=st.lists(PATHS, max_size=5))


@pytest.mark.parametrize(
    ("check", "arguments"),
    [
        (check_statements, {"text": "FROM scratch\nRUN <<E\na\nE\n"}),
        (check_environment, {"text": "FROM scratch\nENV A=abc\nENV B=${A#a}\n"}),
        (check_ignore, {"patterns": ["a/"], "paths": ["a"]}),
    ],
)
def test_a_disagreement_is_seen(check: Callable[..., None], arguments: dict[str, Any]) -> None:
    """On what is left out the two sides do disagree."""
    with pytest.raises(AssertionError):
        check(**arguments)


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_all_three_all_night() -> None:
    all_night(check_statements, text=statements())
    all_night(check_environment, text=environments())
    all_night(check_ignore, patterns=st.lists(PATTERN, max_size=5), paths=st.lists(PATHS, max_size=5))


def test_the_real_ones_are_read_alike() -> None:
    """Every Dockerfile of tests/system/build/real without heredocs."""
    root = Path(__file__).parents[1] / "system/build/real/contexts"
    checked = 0
    for path in root.rglob("Dockerfile"):
        text = path.read_text()
        if "<<" not in text:
            check_statements(text)
            checked += 1
    assert checked >= 10
