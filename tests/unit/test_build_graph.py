"""From Dockerfile to graph and configuration, with images that a fake resolver knows."""

from __future__ import annotations

import time
import tracemalloc
from typing import Any, get_args

import pytest

from daemon.build import imageconfig
from daemon.build.dockerfile import checks, instructions
from daemon.build.dockerfile.parser import parse
from daemon.build.dockerfile.source import DockerfileError
from daemon.build.frontend.dispatch import INSTRUCTIONS
from daemon.build.frontend.lineage import Lineage
from daemon.build.frontend.site import StageState
from daemon.build.frontend.stages import Frontend
from daemon.build.frontend.terms import Built, Request
from daemon.build.graph import CopyFiles, Exec, File, Merge, Mkdir, Output, Source, Vertex, ordered
from daemon.build.sources.resolved import ResolvedImage
from daemon.build.upkeep.cache import duration, identifier
from storage.errors import Internal, InvalidArgument, NotFound

LAYER = "sha256:" + "a" * 64


class Images:
    """A resolver that knows `base` and remembers what it was asked for."""

    def __init__(self, **config: Any) -> None:
        self.asked: list[str] = []
        self.config = config

    async def image(self, reference: str, platform: str) -> ResolvedImage:
        self.asked.append(f"{reference} {platform}".strip())
        if not reference.startswith("base"):
            raise NotFound(f"No such image: {reference}")
        document = {
            "config": {"Env": ["PATH=/bin", "FROM_BASE=1"], **self.config},
            "rootfs": {"diff_ids": [LAYER]},
        }
        return ResolvedImage(f"docker-image://{reference}@sha256:1", document)


async def build(text: str, images: Images | None = None, **request: Any) -> Built:
    return await Frontend(parse(text), Request(**request), images or Images()).run()


def operations(built: Built) -> list[Any]:
    return [vertex.operation for vertex in ordered([built.output])]


def test_every_instruction_of_the_language_is_followed() -> None:
    assert set(INSTRUCTIONS) == set(get_args(instructions.Command))


async def test_equal_work_has_equal_digests() -> None:
    one = await build("FROM base\nRUN a\nCOPY x /y")
    other = await build("FROM  base\n# comment\nRUN  a\ncopy x /y")
    assert one.output and other.output
    assert one.output.vertex.digest == other.output.vertex.digest
    changed = await build("FROM base\nRUN b\nCOPY x /y")
    assert changed.output and changed.output.vertex.digest != one.output.vertex.digest


async def test_only_needed_stages_ask_for_images() -> None:
    images = Images()
    await build("FROM base:1 AS a\nFROM nothing AS b\nRUN x\nFROM base:2\nCOPY --from=a / /", images)
    assert images.asked == ["base:1", "base:2"]


async def test_a_later_stage_may_be_copied_from() -> None:
    built = await build("FROM base AS a\nCOPY --from=b /x /\nFROM base AS b\nRUN y", target="a")
    assert any(isinstance(each, Exec) for each in operations(built))


async def test_a_circle_anywhere_is_refused_with_the_first_stage_that_leads_to_it() -> None:
    text = "FROM base AS x\nFROM base AS a\nCOPY --from=b / /\nFROM base AS b\nCOPY --from=a / /\nFROM base"
    for target in ("", "x"):
        with pytest.raises(DockerfileError, match="circular dependency detected on stage: a") as raised:
            await build(text, target=target)
        assert raised.value.spans[0].first == 3


async def test_stages_are_targets_by_name_alone() -> None:
    with pytest.raises(DockerfileError, match=r"target stage .0. could not be found"):
        await build("FROM base AS a\nFROM base", target="0")


async def test_a_near_stage_is_named_whatever_an_image_failed_of() -> None:
    class Unreachable(Images):
        async def image(self, reference: str, platform: str) -> ResolvedImage:
            if reference == "bulder":
                raise Internal("no such host")
            return await super().image(reference, platform)

    with pytest.raises(Internal, match=r"no such host \(did you mean builder\?\)"):
        await build("FROM base AS builder\nFROM base\nCOPY --from=bulder / /", Unreachable())


async def test_exec_sees_arguments_the_image_does_not() -> None:
    built = await build("FROM base\nARG A=1\nENV E=$A$FROM_BASE\nRUN x", arguments={"A": "2"})
    (process,) = [each for each in operations(built) if isinstance(each, Exec)]
    assert process.env == ("PATH=/bin", "FROM_BASE=1", "A=2", "E=21")
    assert built.document["config"]["Env"] == ["PATH=/bin", "FROM_BASE=1", "E=21"]
    assert built.document["history"][-1]["created_by"] == "RUN |1 A=2 /bin/sh -c x # buildkit"


async def test_global_arguments_need_a_declaration() -> None:
    built = await build("ARG V=9\nFROM base\nLABEL a=$V\nARG V\nLABEL b=$V")
    assert built.document["config"]["Labels"] == {"a": "", "b": "9"}


async def test_configuration_that_looks_odd_is_taken_as_buildkit_takes_it() -> None:
    built = await build("FROM base\nEXPOSE 0 8080/ 1:2:3/udp\nSTOPSIGNAL 65\nCMD\nENTRYPOINT")
    config = built.document["config"]
    assert sorted(config["ExposedPorts"]) == ["0/tcp", "3/udp", "8080/tcp"]
    assert config["StopSignal"] == "65"
    assert config["Entrypoint"] == ["/bin/sh", "-c", ""]


async def test_a_stage_inherits_the_arguments_of_the_one_it_is_from() -> None:
    text = (
        "FROM base AS a\nENV E=1\nARG A=1\nARG N\nFROM a AS b\nENV B=$A$E\nARG A=2\nFROM b\nENV C=$A\nRUN x"
    )
    built = await build(text)
    assert built.document["config"]["Env"][2:] == ["E=1", "B=11", "C=2"]
    assert built.document["history"][-1]["created_by"] == "RUN |2 A=2 N= /bin/sh -c x # buildkit"
    (process,) = [each for each in operations(built) if isinstance(each, Exec)]
    assert process.env[2:] == ("E=1", "A=2", "B=11", "C=2")
    other = await build("FROM base AS a\nARG A=1\nFROM base\nCOPY --from=a / /\nENV C=$A")
    assert other.document["config"]["Env"][2:] == ["C="]


async def test_triggers_may_copy_from_stages_that_nothing_else_needs() -> None:
    text = "FROM base AS a\nONBUILD COPY --from=c /x /y\nFROM scratch AS b\nRUN b\nFROM b AS c\nRUN c\n"
    text += "FROM {} AS d\nRUN d"
    for base, images in (("a", Images()), ("base", Images(OnBuild=["COPY --from=c /x /y"]))):
        built = await build(text.format(base), images, target="d")
        processes = [each.args[-1] for each in operations(built) if isinstance(each, Exec)]
        assert sorted(processes) == ["b", "c", "d"]
    with pytest.raises(DockerfileError, match="circular dependency"):
        await build("FROM base AS a\nONBUILD COPY --from=b / /\nFROM a AS b\nRUN b")


async def test_a_chain_of_stages_copies_nothing() -> None:
    text = "FROM base AS s\n" + "".join(
        f"FROM s{n or ''} AS s{n + 1}\nENV E{n}=1\nLABEL l{n}=1\n" for n in range(600)
    )
    tracemalloc.start()
    try:
        built = await build(text)
        checks.run(parse(text))
        assert len(built.document["config"]["Env"]) == 602
        assert tracemalloc.get_traced_memory()[1] < 12 << 20
    finally:
        tracemalloc.stop()


async def test_stages_that_are_begun_later_see_what_was_there() -> None:
    text = "FROM base AS a\nENV A=1\nFROM a AS b\nENV A=2\nFROM a AS c\nENV C=$A\nFROM b\nCOPY --from=c / /\nENV B=$A"
    built = await build(text)
    assert built.document["config"]["Env"][2:] == ["A=2", "B=2"]
    assert (await build(text, target="c")).document["config"]["Env"][2:] == ["A=1", "C=1"]


def test_copies_of_stages_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.build.frontend.lineage.MAX_COPIED", 6)
    lineage = Lineage([None, 0, 0, 0, 2], 4)
    lineage.begin(0, StageState(None, imageconfig.empty("amd64"), env={"a": "1", "b": "2"}))
    assert lineage.child(0).env == {"a": "1", "b": "2"}
    with pytest.raises(DockerfileError, match="together are too many"):
        lineage.child(0)


async def test_env_values_see_what_was_before_the_instruction() -> None:
    built = await build("FROM base\nENV a=1\nENV a=2 b=$a\nENV c=$a")
    assert built.document["config"]["Env"][2:] == ["a=2", "b=1", "c=2"]


async def test_entrypoint_drops_an_inherited_command_only() -> None:
    inherited = await build('FROM base\nENTRYPOINT ["/e"]', Images(Cmd=["old"]))
    assert "Cmd" not in inherited.document["config"]
    own = await build('FROM base\nCMD ["new"]\nENTRYPOINT ["/e"]', Images(Cmd=["old"]))
    assert own.document["config"]["Cmd"] == ["new"]


async def test_paths_are_cleaned_and_stay_inside() -> None:
    built = await build("FROM base\nWORKDIR /a\nWORKDIR ../../b\nCOPY ../../x ../y/")
    (copy,) = [
        each
        for each in operations(built)
        if isinstance(each, File) and isinstance(each.actions[0], CopyFiles)
    ]
    action = copy.actions[0]
    assert isinstance(action, CopyFiles)
    assert (action.sources, action.target) == (("/x",), "/y/")
    assert built.document["config"]["WorkingDir"] == "/b"


async def test_triggers_of_the_base_come_first() -> None:
    built = await build("FROM base\nRUN mine", Images(OnBuild=["RUN theirs"]))
    assert [each.args[-1] for each in operations(built) if isinstance(each, Exec)] == ["theirs", "mine"]


async def test_shell_is_used_by_what_follows() -> None:
    built = await build(
        'FROM base\nSHELL ["/bin/bash", "-c"]\nRUN x\nCMD y\nHEALTHCHECK --interval=90s CMD z'
    )
    (process,) = [each for each in operations(built) if isinstance(each, Exec)]
    assert process.args == ("/bin/bash", "-c", "x")
    assert built.document["config"]["Cmd"] == ["/bin/bash", "-c", "y"]
    shown = built.document["history"][-1]["created_by"]
    assert shown == 'HEALTHCHECK &{["CMD-SHELL" "z"] "1m30s" "0s" "0s" "0s" \'\\x00\'}'


async def test_urls_and_repositories_of_add() -> None:
    built = await build("FROM base\nADD https://x/y.tgz /a\nADD --keep-git-dir https://x/z.git#v1:sub /b/")
    sources = [each.identifier for each in operations(built) if isinstance(each, Source)]
    assert sources[1:] == ["https://x/y.tgz", "git://x/z.git#v1:sub"]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("FROM base\nEXPOSE 1.2.3.4:80", "invalid hostPort: 1.2.3.4"),
        ("FROM base\nHEALTHCHECK --retries=-1 CMD x", "--retries cannot be negative (-1)"),
        ("FROM base\nHEALTHCHECK CMD []", "Missing command after HEALTHCHECK CMD"),
        ("FROM base\nADD --checksum=md5:1 https://x/y /a", "invalid checksum"),
        ("FROM base\nCOPY --chmod=9 a /b", "invalid chmod parameter: '9'"),
        ("FROM base\nRUN --mount=type=bind,target=/ x", 'invalid mount target "/"'),
        ("FROM base\nCOPY --from=0 a b", "circular dependency detected on stage: 0"),
        ("ARG x=\nFROM $x", "base name ($x) should not be blank"),
        ("FROM base\nONBUILD RUN x\nVOLUME $unset", "VOLUME specified can not be an empty string"),
        ("FROM base\nCOPY <<../x /a\n../x", "invalid heredoc name"),
        ("FROM base\nCOPY --chmod=abc a /b", "invalid syntax"),
        ("FROM base\nADD --checksum=sha256:00 a /b", "checksum requires HTTP(S) or Git sources"),
        ("FROM base\nADD --checksum=sha256:00 https://x/1 https://x/2 /b/", "multiple sources"),
        ("FROM base\nCOPY https://x/1 /b", "source can't be a URL for COPY"),
        ("FROM base\nCOPY https://x/1.git /b", "source can't be a git ref for COPY"),
        ("FROM base\nARG X\nCOPY --from=$X a /b", "variable expansion is not supported for --from"),
        ("FROM base\nSTOPSIGNAL SIGNOPE", "invalid signal: SIGNOPE"),
        ("FROM base\nEXPOSE 80/foo", 'invalid port: "80/foo": invalid proto: foo'),
        ("FROM --platform=a/b/c/d base", "cannot parse platform specifier"),
        ("FROM other", "No such image: other"),
    ],
)
async def test_refusals_have_a_place(text: str, part: str) -> None:
    with pytest.raises(DockerfileError) as raised:
        await build(text)
    assert part in raised.value.sentence
    assert "Dockerfile:" in str(raised.value)


async def test_many_stages_and_instructions_are_quick_and_need_no_recursion() -> None:
    begin = time.monotonic()
    chain = "FROM base AS s0\n" + "".join(f"FROM s{n} AS s{n + 1}\nRUN {n}\n" for n in range(1500))
    assert len(operations(await build(chain))) == 1501
    await build("FROM base\n" + "".join(f"ENV a{n}=$a{n - 1}x\n" for n in range(15000)).replace("$a-1", ""))
    assert time.monotonic() - begin < 20


async def test_variables_of_a_stage_are_bounded() -> None:
    doubling = "FROM base\nENV a0=xxxxxxxxxxxxxxxx\n" + "".join(
        f"ENV a{n + 1}=$a{n}$a{n}\n" for n in range(40)
    )
    with pytest.raises(DockerfileError, match=r"longer than|variables take more"):
        await build(doubling)


def test_digests_depend_on_inputs() -> None:
    source = Output(Vertex(Source("a")))
    one = Vertex(Exec(("x",), (), "/", ""), (source,))
    assert one.digest != Vertex(Exec(("x",), (), "/", ""), (None,)).digest
    assert one.digest == Vertex(Exec(("x",), (), "/", ""), (Output(Vertex(Source("a"))),)).digest


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [(0, "0s"), (1, "1ns"), (1500, "1.5µs"), (10**9, "1s"), (5400 * 10**9, "1h30m0s"), (61 * 10**9, "1m1s")],
)
def test_durations_as_go_writes_them(nanoseconds: int, text: str) -> None:
    assert imageconfig.duration(nanoseconds) == text


def test_ages_and_identifiers() -> None:
    assert duration("1h") == 3600 * 10**9
    with pytest.raises(InvalidArgument):
        duration("soon")
    assert len(identifier("sha256:" + "f" * 64)) == 25


async def test_two_thousand_stages_upon_one_another_take_seconds() -> None:
    stages = "".join(f"FROM s{n} AS s{n + 1}\nENV A{n}=1\n" for n in range(1500))
    begun = time.monotonic()
    built = await build(f"FROM scratch AS s0\n{stages}")
    assert len(built.document["config"]["Env"]) == 1501
    assert time.monotonic() - begun < 20


async def test_the_epoch_reaches_directories_and_is_kept_from_the_key() -> None:
    built = await build("FROM base\nWORKDIR /d\n", arguments={"SOURCE_DATE_EPOCH": "7"})
    (made,) = [each for each in operations(built) if isinstance(each, File)]
    assert isinstance(made.actions[0], Mkdir) and made.actions[0].time == 7 * 10**9
    assert built.epoch == 7 * 10**9
    with pytest.raises(InvalidArgument, match="invalid SOURCE_DATE_EPOCH"):
        await build("FROM base", arguments={"SOURCE_DATE_EPOCH": "soon"})


async def test_links_are_merged_over_their_stage() -> None:
    built = await build("FROM base\nCOPY --link a /a\nCOPY --link --chmod=600 b /b")
    kinds = [type(each) for each in operations(built)]
    assert kinds == [Source, Source, File, Merge, File]
