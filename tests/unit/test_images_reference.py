"""References: the vectors are Docker's own behaviour (distribution/reference, and dockerd asked)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.images import reference
from daemon.images.reference import matches, parse, parse_any, parse_with
from storage.errors import InvalidArgument

DIGEST = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    ("typed", "full", "familiar"),
    [
        ("busybox", "docker.io/library/busybox", "busybox"),
        ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
        ("docker.io/busybox", "docker.io/library/busybox", "busybox"),
        ("index.docker.io/busybox", "docker.io/library/busybox", "busybox"),
        ("library/busybox", "docker.io/library/busybox", "busybox"),
        ("a/b", "docker.io/a/b", "a/b"),
        ("a/b/c", "docker.io/a/b/c", "a/b/c"),
        ("docker.io/library/a/b", "docker.io/library/a/b", "library/a/b"),
        ("localhost/x", "localhost/x", "localhost/x"),
        ("localhost:5000/x:y", "localhost:5000/x:y", "localhost:5000/x:y"),
        ("127.0.0.1:5000/a_b/c__d:T.1-x", "127.0.0.1:5000/a_b/c__d:T.1-x", "127.0.0.1:5000/a_b/c__d:T.1-x"),
        ("[::1]:5000/x", "[::1]:5000/x", "[::1]:5000/x"),
        ("REG/x", "REG/x", "REG/x"),
        (f"x@{DIGEST}", f"docker.io/library/x@{DIGEST}", f"x@{DIGEST}"),
        (f"x:t@{DIGEST}", f"docker.io/library/x:t@{DIGEST}", f"x:t@{DIGEST}"),
        ("a--b", "docker.io/library/a--b", "a--b"),
    ],
)
def test_normalises(typed: str, full: str, familiar: str) -> None:
    parsed = parse(typed)
    assert (str(parsed), parsed.familiar) == (full, familiar)


@pytest.mark.parametrize(
    ("typed", "text"),
    [
        ("", "invalid reference format"),
        ("UPPER", "invalid reference format: repository name (library/UPPER) must be lowercase"),
        ("a/Upper:x", "invalid reference format: repository name (a/Upper) must be lowercase"),
        ("a b", "invalid reference format"),
        ("x:", "invalid reference format"),
        ("x:-a", "invalid reference format"),
        ("x@sha256:abc", "invalid reference format"),
        ("-x", "invalid reference format"),
        ("a..b", "invalid reference format"),
        ("a___b", "invalid reference format"),
        ("https://x/y", "invalid reference format"),
        ("x:" + "t" * 129, "invalid reference format"),
        (f"x@{DIGEST[:-2]}", "invalid checksum digest length"),
        (f"x@md5:{'ab' * 16}", "unsupported digest algorithm"),
        ("ab" * 32, f"invalid repository name ({'ab' * 32}), cannot specify 64-byte hexadecimal strings"),
        ("a/" * 150 + "a", "repository name must not be more than 255 characters"),
    ],
)
def test_refuses(typed: str, text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse(typed)
    assert str(caught.value) == text


def test_any_reference_knows_ids() -> None:
    assert parse_any("ab" * 32) == DIGEST
    assert parse_any(DIGEST) == DIGEST
    assert str(parse_any("sha256:abcd")) == "docker.io/library/sha256:abcd"


def test_pair_of_parameters() -> None:
    assert str(parse_with("x:old", "new")) == "docker.io/library/x:new"
    assert str(parse_with("x:old", DIGEST)) == f"docker.io/library/x@{DIGEST}"
    assert str(parse_with("x:old", "")) == "docker.io/library/x:old"
    with pytest.raises(InvalidArgument, match="invalid tag format"):
        parse_with("x", "a:b")


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("busybox", "busybox:1", True),
        ("busybox:*", "busybox:1", True),
        ("busy*", "busybox:1", True),
        ("*", "a/b:1", False),
        ("*/b", "a/b:1", True),
        ("a/?:1", "a/b:1", True),
        ("[a-c]/b", "a/b:1", True),
        ("[^a]/b", "a/b:1", False),
        ("busybox:2", "busybox:1", False),
        ("127.0.0.1:5000/*", "127.0.0.1:5000/x:1", True),
    ],
)
def test_filter_patterns(pattern: str, name: str, expected: bool) -> None:
    assert matches(pattern, parse(name)) is expected


@given(st.text(max_size=40))
def test_any_text_is_a_reference_or_refused(text: str) -> None:
    try:
        parsed = parse(text)
    except InvalidArgument:
        return
    assert parse(str(parsed)) == parsed
    assert parse(parsed.familiar) == parsed


@given(st.text(alphabet="ab*?[]^\\/-:", max_size=12))
def test_any_pattern_is_matched_or_refused(pattern: str) -> None:
    try:
        reference.matches(pattern, parse("a/b:1"))
    except InvalidArgument as error:
        assert str(error) == "syntax error in pattern"
