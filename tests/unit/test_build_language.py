"""The Dockerfile language: what is understood, and what is refused with which words.

Expected texts were taken from a BuildKit (dockerd 28.5) unless said otherwise.
"""

from __future__ import annotations

import pytest

from daemon.build.dockerfile import instructions as ins
from daemon.build.dockerfile.parser import Dockerfile, parse
from daemon.build.dockerfile.source import DockerfileError
from daemon.build.dockerfile.words import MAX_RESULT, Lexer


def stage(text: str) -> tuple[ins.Command, ...]:
    return parse("FROM scratch\n" + text).stages[-1].commands


def only(text: str) -> ins.Command:
    (command,) = stage(text)
    return command


def refusal(text: str) -> DockerfileError:
    with pytest.raises(DockerfileError) as raised:
        parse(text)
    return raised.value


# -- lines


def test_continuation_comments_and_empty_lines_inside() -> None:
    command = only("RUN a && \\\n  # why\n\n    b \\\n  c\nRUN x"[:-6])
    assert isinstance(command, ins.Run)
    assert command.words == ("a &&     b   c",)
    assert (command.span.first, command.span.last) == (2, 6)


def test_an_escaped_escape_is_no_continuation() -> None:
    first, second = stage("RUN echo a\\\\\nRUN b")
    assert isinstance(first, ins.Run) and first.words == ("echo a\\\\",)
    assert isinstance(second, ins.Run)


def test_the_escape_directive_changes_continuation() -> None:
    found = parse("# escape=`\nFROM scratch\nRUN a `\n b\nCOPY x C:\\\\y\n")
    run, copy = found.stages[0].commands
    assert isinstance(run, ins.Run) and run.words == ("a  b",)
    assert isinstance(copy, ins.Copy) and copy.target == "C:\\\\y"


def test_directives_end_with_the_first_line_that_is_none() -> None:
    found = parse("# syntax=docker/dockerfile:1\n# check=skip=all\n# a comment\n# escape=`\nFROM scratch")
    assert (found.directives.syntax, found.directives.check) == ("docker/dockerfile:1", "skip=all")
    assert found.directives.escape == "\\"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("# escape=`\n# escape=`\nFROM a", "only one escape parser directive can be used"),
        ("# escape=x\nFROM a", "invalid escape token 'x' does not match ` or \\"),
    ],
)
def test_bad_directives(text: str, part: str) -> None:
    assert part in refusal(text).sentence


def test_byte_order_mark_and_carriage_returns() -> None:
    found = parse(b"\xef\xbb\xbfFROM scratch\r\nRUN a \\\r\n  b\r\n")
    run = found.stages[0].commands[0]
    assert isinstance(run, ins.Run) and run.words == ("a   b",)


# -- heredocs


def test_a_heredoc_alone() -> None:
    command = only("RUN <<EOF\necho 1\n# no comment\nEOF")
    assert isinstance(command, ins.Run)
    assert command.words == ("<<EOF",)
    assert command.heredocs[0].content == "echo 1\n# no comment\n"


def test_a_heredoc_keeps_carriage_returns_no_other_line_does() -> None:
    command = only("FROM a\r\nRUN <<EOF\r\necho 1\r\necho 2\nEOF\r\n")
    assert isinstance(command, ins.Run)
    assert command.heredocs[0].content == "echo 1\r\necho 2\n"


def test_an_instruction_is_known_as_it_was_written() -> None:
    assert only("FROM a\ncopy \\\n   f   /g  \n").original == "copy    f   /g"


def test_an_empty_continuation_is_told_at_the_end_of_its_instruction() -> None:
    found = parse("FROM a\nRUN x \\\n\n\n y\nRUN z \\\n\n\n").empty_continuations
    assert [span.first for span in found] == [5, 8]


def test_several_heredocs_with_an_interpreter_line() -> None:
    command = only("RUN 3<<A cat <<-'B'\nx\nA\n\ty $v\n\tB")
    assert isinstance(command, ins.Run)
    first, second = command.heredocs
    assert (first.name, first.descriptor, first.expand) == ("A", 3, True)
    assert (second.name, second.chomp, second.expand, second.text) == ("B", True, False, "y $v\n")


def test_copy_takes_heredocs_among_its_sources() -> None:
    command = only("COPY <<one x <<two /dir/\n1\none\n2\ntwo")
    assert isinstance(command, ins.Copy)
    assert command.sources == ("x",)
    assert [(h.name, h.content) for h in command.heredocs] == [("one", "1\n"), ("two", "2\n")]


def test_an_unterminated_heredoc() -> None:
    assert "unterminated heredoc" in refusal("FROM a\nRUN <<EOF\nx\n").sentence


def test_a_shift_in_json_form_is_no_heredoc() -> None:
    command = only('ENV x="1<<2"')
    assert isinstance(command, ins.Env)


# -- expansion

VALUES = {"a": "foo/bar/baz.tar.gz", "e": "", "s": "a*b", "word": "w"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$a", "foo/bar/baz.tar.gz"),
        ("${a}x", "foo/bar/baz.tar.gzx"),
        ("$ax", ""),
        ("\\$a", "$a"),
        ("'$a'", "$a"),
        ('"$word \\" \\x"', 'w " \\x'),
        ("${e:-x}", "x"),
        ("${e-x}", ""),
        ("${u-x}", "x"),
        ("${u:-${word}y}", "wy"),
        ("${a:+set}", "set"),
        ("${e:+set}", ""),
        ("${e+set}", "set"),
        ("${u+set}", ""),
        ("${a#*/}", "bar/baz.tar.gz"),
        ("${a##*/}", "baz.tar.gz"),
        ("${a%.*}", "foo/bar/baz.tar"),
        ("${a%%.*}", "foo/bar/baz"),
        ("${a#nomatch}", "foo/bar/baz.tar.gz"),
        ("${a##foo?bar}", "/baz.tar.gz"),
        ("${s#a\\*}", "b"),
        ("${a/\\//_}", "foo_bar/baz.tar.gz"),
        ("${a//\\//_}", "foo_bar_baz.tar.gz"),
        ("${a//ba?/X}", "foo/X/X.tar.gz"),
        ("$", "$"),
        ("a$ b", "a$ b"),
        ("${word:?never}", "w"),
    ],
)
def test_expansion(text: str, expected: str) -> None:
    assert Lexer().word(text, VALUES) == expected


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("${a!b}", "unsupported modifier (!) in substitution"),
        ("${a:x}", "unsupported modifier (:x) in substitution"),
        ("${a", "missing '}'"),
        ("${", "bad substitution"),
        ("${}", "bad substitution"),
        ('"a', "looking for matching double-quote"),
        ("'a", "looking for matching single-quote"),
        ("${u:?is needed}", "u: is needed"),
        ("${u?}", "u: is not allowed to be unset"),
    ],
)
def test_bad_expansion(text: str, part: str) -> None:
    with pytest.raises(DockerfileError, match="failed to process") as raised:
        Lexer().word(text, VALUES)
    assert part in raised.value.sentence


def test_words_are_split_after_expansion_unless_quoted() -> None:
    assert Lexer().words('a$x"$x" $x', {"x": "1 2"}) == ["a1", "21 2", "1", "2"]


def test_an_expansion_bomb_is_bounded() -> None:
    values = {"a": "x" * 1000}
    with pytest.raises(DockerfileError, match="longer than"):
        for _ in range(30):
            values["a"] = Lexer().word("$a$a$a", values)
    assert len(values["a"]) <= MAX_RESULT


def test_deep_nesting_is_refused_not_recursed() -> None:
    with pytest.raises(DockerfileError, match="more than 50"):
        Lexer().word("${a:-" * 100_000, {})


@pytest.mark.parametrize(
    "text", ["${v//" + "*a" * 500 + "b/x}", "${v##" + "*a" * 2000 + "b}", "${v%" + "?" * 5000 + "*}"]
)
def test_hostile_patterns_end(text: str) -> None:
    try:
        Lexer().word(text, {"v": "a" * 20_000})
    except DockerfileError as error:
        assert "too long" in error.sentence or "longer" in error.sentence


# -- instructions


def test_from_with_everything() -> None:
    found = parse("ARG V=1\nFROM --platform=$BUILDPLATFORM debian:$V As Base\n").stages[0]
    assert (found.base, found.alias, found.platform) == ("debian:$V", "base", "$BUILDPLATFORM")


def test_run_flags_and_forms() -> None:
    command = only('RUN --network=none --security=sandbox --mount=type=tmpfs,target=/t,size=1m ["a", "b c"]')
    assert isinstance(command, ins.Run)
    assert (command.words, command.shell, command.network) == (("a", "b c"), False, "none")
    assert (command.mounts[0].kind, command.mounts[0].target, command.mounts[0].size) == (
        "tmpfs",
        "/t",
        1 << 20,
    )


def test_a_text_that_is_no_json_is_the_shells() -> None:
    command = only("CMD [a, b]")
    assert isinstance(command, ins.Cmd) and command.shell and command.words == ("[a, b]",)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("type=bind,from=x,source=/a,target=/b,rw", ("bind", "x", "/a", "/b", False)),
        ("source=/a,target=/b", ("bind", "", "/a", "/b", True)),
        ("type=cache,dst=/c,id=i,sharing=locked,mode=0700,uid=1,gid=2", ("cache", "", "", "/c", False)),
        ("type=secret,id=s,env=TOKEN", ("secret", "", "", "", True)),
        ("type=ssh,required", ("ssh", "", "", "", True)),
    ],
)
def test_mounts(text: str, expected: tuple[str, str, str, str, bool]) -> None:
    command = only(f"RUN --mount={text} x")
    assert isinstance(command, ins.Run)
    mount = command.mounts[0]
    assert (mount.kind, mount.origin, mount.source, mount.target, mount.readonly) == expected


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("type=bnd,target=/a", 'unsupported mount type "bnd" (did you mean bind?)'),
        ("type=cache,taget=/a", "unexpected key 'taget' in 'taget=/a' (did you mean target?)"),
        ("type=cache,target=/a,sharing=share", 'unsupported sharing value "share" (did you mean shared?)'),
        ("type=bind,target=/a,mode=8", "unexpected key 'mode'"),
        ("type=cache,target=/a,mode=9", "invalid value 9 for mode"),
        ("type=cache", 'invalid mount target "/"'),
    ],
)
def test_bad_mounts(text: str, part: str) -> None:
    assert part in refusal(f"FROM a\nRUN --mount={text} x").sentence


def test_copy_and_add_flags() -> None:
    copy, add = stage(
        "COPY --from=x --chown=1:2 --chmod=755 --link --parents --exclude=*.a --exclude=b a b /c/\n"
        "ADD --checksum=sha256:00 --keep-git-dir=true --unpack=false --link=false u /d"
    )
    assert isinstance(copy, ins.Copy) and isinstance(add, ins.Add)
    assert (copy.origin, copy.chown, copy.chmod, copy.link, copy.parents) == ("x", "1:2", "755", True, True)
    assert (copy.excludes, copy.sources, copy.target) == (("*.a", "b"), ("a", "b"), "/c/")
    assert (add.checksum, add.keep_git_dir, add.unpack, add.link) == ("sha256:00", True, False, False)


def test_env_label_arg() -> None:
    env, old, label, arg = stage('ENV a=1 b="x y" c=z\\ w\nENV k v w\nLABEL "a b"=c\nARG x y=2')
    assert isinstance(env, ins.Env) and isinstance(old, ins.Env)
    assert [(p.key, p.value) for p in env.pairs] == [("a", "1"), ("b", '"x y"'), ("c", "z\\ w")]
    assert old.pairs == (ins.Pair("k", "v w", bare=True),)
    assert isinstance(label, ins.Label) and label.pairs[0].key == '"a b"'
    assert isinstance(arg, ins.Arg) and [(p.key, p.value) for p in arg.pairs] == [("x", None), ("y", "2")]


def test_health_check() -> None:
    command = only('HEALTHCHECK --interval=1m30s --timeout=5s --start-period=1s --retries=2 CMD ["x"]')
    assert isinstance(command, ins.HealthCheck)
    assert (command.test, command.interval, command.retries) == (("CMD", "x"), 90 * 10**9, 2)
    none = only("HEALTHCHECK NONE")
    assert isinstance(none, ins.HealthCheck) and none.test == ("NONE",)


def test_onbuild_keeps_its_trigger() -> None:
    command = only("ONBUILD RUN --mount=type=tmpfs,target=/x a b")
    assert isinstance(command, ins.OnBuild)
    assert command.trigger == "RUN --mount=type=tmpfs,target=/x a b"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "FROM scratch\nRUNN x",
            "dockerfile parse error on line 2: unknown instruction: RUNN (did you mean RUN?)",
        ),
        (
            "FROM scratch\nCOPY --form=x a /",
            "dockerfile parse error on line 2: unknown flag: --form (did you mean from?)",
        ),
        ("RUN x\nFROM scratch", "no build stage in current context"),
        ("FROM a b", "dockerfile parse error on line 1: FROM requires either one or three arguments"),
        (
            "FROM a AS 1x",
            'dockerfile parse error on line 1: invalid name for build stage: "1x", name can\'t start with a number or '
            "contain symbols",
        ),
        ("FROM a\nENV x", "ENV must have two arguments"),
        (
            "FROM a\nENV a=b c",
            'Syntax error - can\'t find = in "c". Must be of the form: name=value',
        ),
        ("FROM a\nRUN --mount x", "dockerfile parse error on line 2: missing a value on flag: --mount"),
        (
            "FROM a\nCOPY --link=maybe a b",
            "dockerfile parse error on line 2: expecting boolean value for flag --link, not: maybe",
        ),
        (
            "FROM a\nCOPY --from=x --from=y a b",
            "dockerfile parse error on line 2: duplicate flag specified: --from",
        ),
        (
            "FROM a\nSHELL x",
            "dockerfile parse error on line 2: SHELL requires the arguments to be in JSON form",
        ),
        (
            "FROM a\nONBUILD FROM x",
            "dockerfile parse error on line 2: FROM isn't allowed as an ONBUILD trigger",
        ),
        (
            "FROM a\nONBUILD ONBUILD RUN x",
            "dockerfile parse error on line 2: Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed",
        ),
        (
            "FROM a\nHEALTHCHECK X y",
            'dockerfile parse error on line 2: Unknown type "X" in HEALTHCHECK (try CMD)',
        ),
        (
            "FROM a\nCOPY x",
            "dockerfile parse error on line 2: COPY requires at least two arguments, but only one was provided. "
            "Destination could not be determined",
        ),
        ("", "file with no instructions"),
        ("# only a comment", "file with no instructions"),
        ("ARG x", "dockerfile contains no stages to build"),
    ],
)
def test_refusals(text: str, sentence: str) -> None:
    assert refusal(text).sentence == sentence


def test_errors_show_the_place() -> None:
    error = refusal("FROM scratch\nRUNN x\nCOPY a /\n")
    assert str(error).split("\n")[1:] == [
        "Dockerfile:2",
        "--------------------",
        "   1 |     FROM scratch",
        "   2 | >>> RUNN x",
        "   3 |     COPY a /",
        "   4 |     ",
        "--------------------",
    ]


# -- hostile files


@pytest.mark.parametrize(
    "text",
    [
        "FROM a\n" + "RUN x\n" * 300_000,
        "FROM a\n" * 10_000,
        "FROM a\nRUN " + "x" * 100_000,
        b"\0" * 100,
        b"x" * (17 << 20),
        "FROM a\nRUN " + " ".join(f"<<E{n}" for n in range(2000)) + "\n",
    ],
    ids=["instructions", "stages", "line", "nul", "size", "heredocs"],
)
def test_hostile_files_are_refused(text: str | bytes) -> None:
    with pytest.raises(DockerfileError):
        parse(text)


def test_any_bytes_are_a_dockerfile_or_an_error() -> None:
    found: Dockerfile = parse(b"FROM scratch\nLABEL x=\xff\xfe\n")
    label = found.stages[0].commands[0]
    assert isinstance(label, ins.Label) and label.pairs[0].value == "\udcff\udcfe"


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("$Aé|", "|"),
        ("${é}$é", "2323"),
        ("x$12y", "xy"),
        ("${12}y", "y"),
        ("$A٣|", "|"),
        ("$A-", "1-"),
        ("a$.", "a$."),
    ],
)
def test_names_of_variables_are_of_any_script_and_numbers_are_whole(text: str, result: str) -> None:
    assert Lexer().word(text, {"A": "1", "é": "23"}) == result
