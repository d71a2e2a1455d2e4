"""`.dockerignore`: Docker's rules, wildcards of copies and modes of --chmod."""

from __future__ import annotations

import time

import pytest

from daemon.build.dockerfile.ignore import Ignore, compile_glob, lines
from daemon.build.files import modes
from storage.errors import InvalidArgument


@pytest.mark.parametrize(
    ("patterns", "path", "ignored"),
    [
        ("*.log", "a.log", True),
        ("*.log", "d/a.log", False),
        ("**/*.log", "a.log", True),
        ("**/*.log", "d/e/a.log", True),
        ("d", "d/e/f", True),
        ("d/", "d/e", True),
        ("/d", "d", True),
        ("./d", "d", True),
        ("d/**", "d", False),
        ("d/**", "d/e/f", True),
        ("**/d", "x/y/d/z", True),
        ("a?c", "abc", True),
        ("a?c", "a/c", False),
        ("[a-c]x", "bx", True),
        ("[^a-c]x", "bx", False),
        ("\\*", "*", True),
        ("\\*", "x", False),
        ("*\n!keep", "keep", False),
        ("!keep\n*", "keep", True),
        ("d\n!d/keep", "d/keep", False),
        ("d\n!d/keep", "d/other", True),
        ("**\n!**/*.go", "a/b.go", False),
        ("# x\n\n  y  ", "y", True),
        ("# x", "# x", False),
        ("a/../b", "b", True),
        ("..", "x", False),
        ("foo*bar", "foo/bar", False),
        ("**/foo/*", "foo/x", True),
        ("a/**/b", "a/b", True),
        ("a/**/b", "a/x/y/b", True),
        ("*/b", "a/b", True),
        ("*/b", "b", False),
    ],
)
def test_ignored(patterns: str, path: str, ignored: bool) -> None:
    assert Ignore.of(patterns).ignored(path) is ignored


def test_lines_are_cleaned() -> None:
    assert lines("# c\n a/ \n! /b/../c \n\n.\n") == ["a", "!c", "."]


@pytest.mark.parametrize("pattern", ["[a", "a\\", "!"])
def test_bad_patterns(pattern: str) -> None:
    with pytest.raises(InvalidArgument):
        Ignore([pattern])


@pytest.mark.parametrize("text", ["", "999", "u+y", "77777", "rwx", "t", "0o755", "u+x,", "u"])
def test_what_is_no_mode(text: str) -> None:
    with pytest.raises(InvalidArgument):
        modes.parse(text)


def test_only_lines_of_a_file_lose_a_leading_slash() -> None:
    assert not Ignore(["/d", " "]).ignored("d")


def test_a_directory_with_an_exception_in_it_is_not_pruned() -> None:
    ignore = Ignore.of("node_modules\n!node_modules/keep/**\nbuild")
    assert not ignore.prunes("node_modules")
    assert ignore.prunes("build")


@pytest.mark.parametrize("pattern", ["*a" * 40 + "b", "**/" * 40 + "b", "a*" * 1000])
def test_hostile_patterns_end(pattern: str) -> None:
    begin = time.monotonic()
    compile_glob(pattern).fullmatch("a" * 1000)
    assert time.monotonic() - begin < 5


@pytest.mark.parametrize(
    ("text", "mode", "directory", "expected"),
    [
        ("755", 0o600, False, 0o755),
        ("0640", 0o777, True, 0o640),
        ("u=rwX,go=rX", 0o600, False, 0o644),
        ("u=rwX,go=rX", 0o600, True, 0o755),
        ("+x", 0o644, False, 0o755),
        ("go-rwx", 0o777, False, 0o700),
        ("g=u", 0o640, False, 0o660),
        ("u+s", 0o755, False, 0o4755),
        ("1777", 0o600, False, 0o1777),
        ("u=rwX,go=rX", 0o4755, False, 0o755),  # what follows was asked of BuildKit
        ("=rw", 0o4755, False, 0o666),
        ("=", 0o1755, True, 0o1000),
        ("=t", 0o644, False, 0o1644),
        ("=rwt", 0o4755, False, 0o5755),
        ("u=t", 0o4755, False, 0o1055),
        ("o+t", 0o644, False, 0o644),
        ("u+t", 0o644, False, 0o1644),
        ("+s", 0o755, False, 0o6755),
        ("a-x+X", 0o755, False, 0o755),
        ("a-x+X", 0o644, False, 0o644),
        ("u=rwX,g=u,o=", 0o4755, False, 0o770),
        ("g=u+t", 0o755, False, 0o1775),
        ("g-u", 0o775, False, 0o705),
        ("u+g", 0o050, False, 0o550),
    ],
)
def test_modes(text: str, mode: int, directory: bool, expected: int) -> None:
    assert modes.parse(text)(mode, directory) == expected
