"""The build checks: what a real BuildKit says of the same files, and how far it looks."""

from __future__ import annotations

import contextlib

import pytest

from daemon.build.dockerfile import checks
from daemon.build.dockerfile.ignore import Ignore
from daemon.build.dockerfile.parser import parse
from daemon.build.dockerfile.source import DockerfileError
from daemon.build.frontend.stages import Frontend
from daemon.build.frontend.terms import Request
from storage.errors import PydError
from tests.unit.test_build_graph import Images


async def found(text: str, *, ignore: Ignore | None = None, **request: object) -> list[tuple[str, int]]:
    """(rule or variable, line) of each finding, as far as the front end got."""
    dockerfile = parse(text)
    asked = Request(every_stage="target" not in request, **request)  # type: ignore[arg-type]
    frontend = Frontend(dockerfile, asked, Images())
    with contextlib.suppress(PydError):
        await frontend.run()
    findings = checks.run(dockerfile, asked.arguments, seen=frontend.seen, ignore=ignore)
    return [
        (each.text.split("'")[1] if each.rule == "UndefinedVar" else each.rule, each.span.first)
        for each in findings
    ]


async def test_variables_are_those_of_images_and_of_stages_below() -> None:
    text = (
        "FROM base AS a\nENV x=$PATH y=$FROM_BASE z=$nope\nARG A\nENV u=${b:-1} k${c}=2 v=$A$1\n"
        "FROM a AS b\nENV w=$x$A$d\n"
        "FROM scratch\nENV p=$PATH q=$http_proxy\nEXPOSE $nobody\nRUN --mount=type=cache,target=/m$e x $not\n"
        "COPY <<one <<'two' /\n$f\none\n$not\ntwo\nLABEL $g=1 h='$not' i=\\$not\n"
    )
    assert await found(text) == [
        ("$nope", 2), ("$b", 4), ("$c", 4), ("$1", 4), ("$d", 6), ("$http_proxy", 8), ("$e", 10), ("$f", 11),
        ("$g", 16),
    ]  # fmt: skip


async def test_it_looks_as_far_as_the_build_gets() -> None:
    text = "FROM base AS a\nENV x=$no\nFROM base AS b\nENV y=$no\nENV ${z:?needed}=1\nENV z=$no\n"
    assert await found(text) == [("$no", 2), ("$no", 4), ("$z", 5)]
    assert await found(text, target="a") == [("$no", 2)]
    assert await found("FROM base AS A\nENV x=$no\nFROM nowhere\nMAINTAINER me") == [
        ("StageNameCasing", 1), ("MaintainerDeprecated", 4),
    ]  # fmt: skip


async def test_directories_and_shells_that_stages_inherit() -> None:
    text = (
        "FROM base AS a\nWORKDIR r\nWORKDIR s\nCMD x\nSHELL [\"/s\"]\nENTRYPOINT x\nFROM a\nWORKDIR r\nCMD y\n"
        "FROM base\nWORKDIR r\n"
    )  # fmt: skip
    assert await found(text) == [
        ("WorkdirRelativePath", 2),
        ("JSONArgsRecommended", 4),
        ("WorkdirRelativePath", 11),
    ]


async def test_experimental_rules_are_asked_for() -> None:
    ignore = Ignore(["no"])
    text = "FROM base\nCOPY no/x ./no /\n# wrong\nARG A\n"
    assert await found(text, ignore=ignore) == []
    both = [("CopyIgnoredFile", 3), ("CopyIgnoredFile", 3), ("InvalidDefinitionDescription", 5)]
    assert await found("# check=experimental=all\n" + text, ignore=ignore) == both
    assert await found("# check=experimental=CopyIgnoredFile;skip=all\n" + text, ignore=ignore) == both[:2]


async def test_the_image_of_another_platform() -> None:
    base = checks.Base("base", frozenset(), "linux/amd64", "linux/arm64")
    (finding,) = checks.run(parse("FROM base"), seen=checks.Seen({0: base}, {}))
    assert finding.text == (
        'Base image base was pulled with platform "linux/arm64", expected "linux/amd64" for current build'
    )


def test_what_fails_a_build() -> None:
    fatal = parse("# check=error=true\nFROM base as a\nMAINTAINER me")
    assert checks.violation(checks.run(fatal), fatal) == (
        "lint violation found for rules: FromAsCasing, MaintainerDeprecated"
    )
    mild = parse("FROM base as a")
    assert checks.run(mild) and not checks.violation(checks.run(mild), mild)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("foo=1", 'invalid check option "foo"'),
        ("skip=A; error=true", 'invalid check option ""'),
        (
            "error=yes",
            'failed to parse check option "error=yes": strconv.ParseBool: parsing "yes": invalid syntax',
        ),
    ],
)
def test_options_that_mean_nothing(options: str, sentence: str) -> None:
    with pytest.raises(DockerfileError) as raised:
        checks.run(parse(f"# check={options}\nFROM base"))
    assert raised.value.sentence == f"failed to parse check options: {sentence}"
