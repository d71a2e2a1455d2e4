"""Whatever the text: a Dockerfile, or a DockerfileError, in bounded time."""

from __future__ import annotations

import string

from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.build.dockerfile import checks
from daemon.build.dockerfile.ignore import Automaton, Ignore, _tokens, compile_glob
from daemon.build.dockerfile.parser import parse
from daemon.build.dockerfile.source import DockerfileError
from daemon.build.dockerfile.words import Lexer
from daemon.build.files import modes
from storage.errors import InvalidArgument

PIECES = st.sampled_from(
    [
        "FROM a", "FROM ${x:-b} AS c", "RUN ", "COPY ", "ADD ", "ENV ", "LABEL ", "ARG ", "ONBUILD ",
        "HEALTHCHECK CMD ",
        "--mount=", "type=cache,", "target=/x", "--from=c ", "--chown=", "<<EOF", "<<-'E'", "EOF", "E", "\\",
        "\n", "\n\n",
        " ", "\t", "#", "# escape=`", '"', "'", "$", "${", "}", ":-", "##*", "%%", "//", "/", "=", "[", "]", '["a"]',
        "a", "`", "\r", "\\\n", "é", "\x00", "--", "SHELL ", "EXPOSE 1-65535/udp",
    ]
)  # fmt: skip


@settings(max_examples=400, deadline=2000)
@given(st.lists(PIECES, max_size=40).map("".join), st.booleans())
def test_the_parser_never_fails_otherwise(text: str, with_from: bool) -> None:
    try:
        found = parse(("FROM scratch\n" if with_from else "") + text)
    except DockerfileError as error:
        assert error.sentence
        return
    lines = text.count("\n") + 2
    for stage in found.stages:
        for command in stage.commands:
            assert 1 <= command.span.first <= command.span.last <= lines
    checks.report(checks.run(found), found.source)


@settings(max_examples=200, deadline=2000)
@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    try:
        parse(data)
    except DockerfileError as error:
        assert error.sentence


@settings(max_examples=400, deadline=2000)
@given(
    st.lists(PIECES, max_size=25).map("".join), st.dictionaries(st.sampled_from("axyz"), st.text(max_size=20))
)
def test_expansion_never_fails_otherwise(text: str, values: dict[str, str]) -> None:
    for lexer in (Lexer(), Lexer("`"), Lexer(raw_quotes=True, keep_unset=True)):
        try:
            lexer.word(text, values)
            lexer.words(text, values)
        except DockerfileError as error:
            assert error.sentence.startswith("failed to process")


@settings(max_examples=300, deadline=1000)
@given(st.text(alphabet=string.ascii_letters + string.digits + "/._- ", max_size=60))
def test_plain_text_is_itself(text: str) -> None:
    assert Lexer().word(text, {"a": "x"}) == text
    assert Lexer().words(text, {}) == text.split()


@settings(max_examples=500, deadline=1000)
@given(st.text(alphabet="ab/*?.", max_size=12), st.text(alphabet="ab/.", max_size=12))
def test_the_automaton_agrees_with_the_regular_expression(pattern: str, path: str) -> None:
    matcher = compile_glob(pattern)
    assert bool(matcher.fullmatch(path)) == bool(Automaton(_tokens(pattern)).fullmatch(path)), (pattern, path)


@settings(max_examples=300, deadline=1000)
@given(
    st.lists(st.text(alphabet="ab/*!?[]\\^-# ", max_size=10), max_size=6),
    st.text(alphabet="ab/", max_size=10),
)
def test_ignore_files_are_understood_or_refused(patterns: list[str], path: str) -> None:
    try:
        ignore = Ignore.of("\n".join(patterns))
        ignored = ignore.ignored(path)
    except InvalidArgument:
        return
    if ignored and ignore.prunes(path):
        assert ignore.ignored(f"{path}/below")


@settings(max_examples=300, deadline=1000)
@given(st.text(alphabet="ugoarwxXst+-=,0178", max_size=12), st.integers(0, 0o7777), st.booleans())
def test_modes_stay_modes(text: str, mode: int, directory: bool) -> None:
    try:
        changed = modes.parse(text)(mode, directory)
    except InvalidArgument:
        return
    assert 0 <= changed <= 0o7777
