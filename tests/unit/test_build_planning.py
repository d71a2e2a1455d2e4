"""The front end's attributes, contexts and platforms, with a client and images that are played."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from daemon.build.bench import Bench, Job
from daemon.build.dockerfile import checks
from daemon.build.dockerfile.parser import parse
from daemon.build.dockerfile.source import DockerfileError
from daemon.build.frontend import options, planning, subrequests
from daemon.build.graph import Exec, File, Merge, Output, Source, Vertex, ordered
from daemon.build.sources import gitrefs
from daemon.build.workshop import Workshop
from daemon.images import platforms
from storage.errors import InvalidArgument, NotFound

LOCAL = platforms.local()


class Client:
    """A session with directories; remembers what it was asked for."""

    id = "client"

    def __init__(self, **directories: Path) -> None:
        self.directories, self.asked = directories, list[tuple[str, tuple[str, ...], tuple[str, ...]]]()

    async def sync(self, job: Any, name: str, *, follow: Any = (), exclude: Any = (), **_: Any) -> Path:
        self.asked.append((name, tuple(follow), tuple(exclude)))
        if name not in self.directories:
            raise NotFound(f"no access allowed to dir {name!r}")
        return self.directories[name]

    async def credentials(self, host: str) -> None:
        return None


class Images:
    """`ctx.images`: one local image of each architecture that is named, e.g. `debian-arm64`."""

    def resolve(self, name: str, platform: Any = None) -> Any:
        known = name.partition(":")[0]
        if not known.startswith("debian"):
            raise NotFound(f"No such image: {name}")
        architecture = known.partition("-")[2] or LOCAL.architecture
        config = {"os": "linux", "architecture": architecture, "rootfs": {"diff_ids": ["sha256:" + "a" * 64]},
                  "config": {"Env": ["PATH=/bin"]}}  # fmt: skip
        return SimpleNamespace(
            id="sha256:" + "b" * 64, config=config, chain_ids=(), diff_ids=("sha256:" + "a" * 64,), digests=()
        )

    def fetch(self, name: Any, platform: Any, auth: Any) -> Any:
        raise NotFound(f"no registry here: {name}")


class World:
    def __init__(self, directory: Path, files: Mapping[str, Mapping[str, str]]) -> None:
        places = {}
        for name, contents in files.items():
            places[name] = directory / name
            places[name].mkdir()
            for path, text in contents.items():
                (places[name] / path).parent.mkdir(parents=True, exist_ok=True)
                (places[name] / path).write_text(text)
        self.client = Client(**places)
        self.workshop = Workshop(directory / "content")
        self.ctx: Any = SimpleNamespace(images=Images())
        lease: Any = SimpleNamespace(add=lambda *nodes: None)
        self.bench = Bench(self.ctx, None, None, self.workshop, directory, directory, None)  # type: ignore[arg-type]
        self.job = Job("1", directory / "job", lease, sessions=(self.client,))  # type: ignore[arg-type]

    async def plan(self, inputs: Mapping[str, Output | None] | None = None, **opts: str) -> list[Any]:
        named = {name.replace("__", ":"): value for name, value in opts.items()}
        with self.workshop.held():
            try:
                return await planning.plan(self.bench, self.job, self.ctx, named, inputs or {})
            finally:
                await self.workshop.close()

    def sources(self, built: Any) -> dict[str, dict[str, str]]:
        vertices = ordered([built.output])
        return {
            v.operation.identifier: dict(v.operation.attributes)
            for v in vertices
            if isinstance(v.operation, Source)
        }


def world(directory: Path, dockerfile: str, **more: Mapping[str, str]) -> World:
    return World(directory, {"dockerfile": {"Dockerfile": dockerfile}, "context": {"a": "1"}, **more})


async def test_only_what_is_used_is_asked_for(tmp_path: Path) -> None:
    text = "FROM debian\nCOPY a b/../c /x/\nRUN --mount=source=d,target=/d true\nADD https://x/y /z\n"
    here = world(tmp_path, text, context={".dockerignore": "*.o\n!k.o\n"})
    (planned,) = await here.plan()
    context = here.sources(planned.built)["local://context"]
    assert json.loads(context["local.followpaths"]) == ["a", "c", "d"]
    assert json.loads(context["local.excludepatterns"]) == ["*.o", "!k.o"]
    assert context["local.session"] == "client"
    asked = {name: follow for name, follow, _ in here.client.asked}
    assert asked["dockerfile"] == ("Dockerfile", "Dockerfile.dockerignore", "dockerfile")
    assert asked["context"] == (".dockerignore",)  # the files themselves only when it is built
    names = [progress.name for progress in here.job.progress.values()]
    assert "[internal] load build definition from Dockerfile" in names
    assert "[internal] load .dockerignore" in names
    assert "[internal] load metadata for docker.io/library/debian:latest" in names


async def test_the_ignore_file_beside_the_dockerfile_counts_and_all_may_be_needed(tmp_path: Path) -> None:
    here = world(tmp_path, "FROM scratch\nCOPY . /\n", context={".dockerignore": "x"})
    (here.client.directories["dockerfile"] / "Dockerfile.dockerignore").write_text("y")
    (planned,) = await here.plan()
    context = here.sources(planned.built)["local://context"]
    assert "local.followpaths" not in context
    assert json.loads(context["local.excludepatterns"]) == ["y"]


async def test_a_context_that_nobody_uses_is_never_asked_for(tmp_path: Path) -> None:
    here = world(tmp_path, "FROM debian\nRUN true\n")
    (planned,) = await here.plan()
    assert "local://context" not in here.sources(planned.built)


async def test_steps_are_named_as_buildkit_names_them(tmp_path: Path) -> None:
    text = "FROM debian AS base\nWORKDIR /w\nFROM base\nARG V=1\nCOPY --link a /$V\nRUN <<X\necho hi\nls\nX\n"
    here = world(tmp_path, text)
    (planned,) = await here.plan()
    names = [v.about.name for v in ordered([planned.built.output])]
    assert names[0].startswith("[base 1/2] FROM docker.io/library/debian:latest@sha256:")
    assert names[1:] == [
        "[base 2/2] WORKDIR /w",
        "[internal] load build context",
        "[stage-1 1/2] COPY --link a /1",
        "[stage-1 1/2] LINK COPY --link a /1",
        "[stage-1 2/2] RUN <<X (echo hi...)",
    ]
    kinds = [type(v.operation) for v in ordered([planned.built.output])]
    assert kinds == [Source, File, Source, File, Merge, Exec]


async def test_two_platforms_have_their_own_arguments_names_and_processes(tmp_path: Path) -> None:
    text = "ARG TARGETARCH\nFROM --platform=$BUILDPLATFORM debian AS b\nRUN make $TARGETARCH\n"
    text += "FROM debian-$TARGETARCH\nCOPY --from=b / /\nRUN x\n"
    here = world(tmp_path, text)
    first, second = await here.plan(platform="linux/amd64,linux/arm64")
    assert [str(first.platform), str(second.platform)] == ["linux/amd64", "linux/arm64"]
    assert (second.built.document["architecture"], second.built.document["os"]) == ("arm64", "linux")
    processes = [v for v in ordered([second.built.output]) if isinstance(v.operation, Exec)]
    assert [v.operation.platform for v in processes if isinstance(v.operation, Exec)] == ["", "linux/arm64"]
    assert processes[0].about.name.startswith("[linux/amd64->arm64 b 2/2] RUN make")
    assert processes[1].about.name.startswith("[linux/arm64 stage-1 3/3] RUN x")
    assert first.built.output.vertex.digest != second.built.output.vertex.digest


async def test_named_contexts_take_the_place_of_images_stages_and_origins(tmp_path: Path) -> None:
    text = "FROM base AS one\nFROM nothing AS two\nFROM one\nCOPY --from=dir s /\nCOPY --from=two / /two\n"
    text += "COPY --from=git / /g\n"
    here = world(tmp_path, text, dir={"s": "1", ".dockerignore": "t"})
    config = json.dumps({"os": "linux", "architecture": LOCAL.architecture, "config": {"Env": ["A=1"]},
                         "rootfs": {"diff_ids": ["x"]}})  # fmt: skip
    given = Output(Vertex(Source("docker-image://given")))
    metadata = json.dumps({"containerimage.config": base64.b64encode(config.encode()).decode()})
    opts = {
        "context:base": "input:0-base", "input-metadata:0-base": metadata, "context:two": "docker-image://debian",
        "context:dir": "local:dir", "context:git": "https://h/r.git#v1:d",
    }  # fmt: skip
    (planned,) = await here.plan(
        {"0-base": given}, **{name.replace(":", "__"): value for name, value in opts.items()}
    )
    found = here.sources(planned.built)
    assert "docker-image://given" in found and "git://h/r.git#v1:d" in found
    assert json.loads(found["local://dir"]["local.followpaths"]) == ["s"]
    assert json.loads(found["local://dir"]["local.excludepatterns"]) == ["t"]
    assert planned.built.document["config"]["Env"][0] == "A=1"


@pytest.mark.parametrize(
    ("opts", "part"),
    [
        ({"platform": "linux/bogus/x/y"}, "failed to parse target platform"),
        ({"force-network-mode": "bridge"}, "invalid netmode bridge"),
        ({"add-hosts": "a=1.2.3"}, "failed to parse IP"),
        ({"ulimit": "nofile=x"}, "invalid ulimit"),
        ({"platform": "linux/amd64,linux/arm64", "multi-platform": "false"}, "conflicting config"),
        ({"image-resolve-mode": "x"}, "invalid image-resolve-mode"),
        ({"shm-size": "-1"}, "shm size"),
    ],
)
def test_attributes_that_mean_nothing(opts: dict[str, str], part: str) -> None:
    with pytest.raises(InvalidArgument, match=part):
        options.read(opts)


def test_attributes() -> None:
    found = options.read(
        {
            "add-hosts": "a=1.2.3.4,b=::1", "ulimit": "nofile=10:20,nproc=5", "shm-size": "99", "no-cache": "x,Y",
            "build-arg:A": "1", "label:l": "2", "cgroup-parent": "/p", "build-arg:BUILDKIT_SANDBOX_HOSTNAME": "h",
        }
    )  # fmt: skip
    run = found.run
    assert run.hosts == ("a:1.2.3.4", "b:::1") and run.ulimits == (("nofile", 10, 20), ("nproc", 5, 5))
    assert (run.shm_size, run.cgroup_parent, run.hostname) == (99, "/p", "h")
    assert not found.no_cache and found.no_cache_stages == {"x", "y"}
    assert options.read({"no-cache": ""}).no_cache
    assert options.several({"platform": "linux/amd64", "multi-platform": "true"})


def test_repositories() -> None:
    found = gitrefs.parse("https://h/a/r.git?branch=b&subdir=d&keep-git-dir=1")
    assert found is not None and (found.ref, found.directory, found.keep) == ("refs/heads/b", "d", True)
    assert gitrefs.parse("git@h:a/r.git#t") is not None and gitrefs.parse("https://h/a.tgz") is None
    assert gitrefs.parse("github.com/a/b") is None and gitrefs.parse("github.com/a/b", context=True)
    back = gitrefs.of_source(found.identifier, dict(found.attributes))
    assert (back.remote, back.ref, back.directory, back.keep) == (found.remote, found.ref, "d", True)
    for bad in (
        "https://h/r.git#x:../..",
        "https://h/r.git?ref=",
        "https://h/r.git?ref=a&ref=b",
        "https://h/r.git?u=1",
    ):
        with pytest.raises(InvalidArgument):
            gitrefs.parse(bad)


def test_a_dockerfile_tells_about_itself() -> None:
    text = "# V the version\nARG V=1\n\nFROM scratch AS one\n\n# two the second\nFROM one AS two\nARG W\n" \
           "RUN --mount=type=secret,id=s,required=true x\nCMD x\n"  # fmt: skip
    dockerfile = parse(text)
    told = subrequests.answer(subrequests.OUTLINE, dockerfile, options.Options(arguments={"V": "2"}))
    document = json.loads(told["result.json"])
    assert document["name"] == "two" and document["description"] == "the second"
    assert [(a["name"], a.get("value")) for a in document["args"]] == [("V", "2"), ("W", None)]
    assert document["secrets"][0]["required"] and b"SECRET" in told["result.txt"]
    targets = json.loads(
        subrequests.answer(subrequests.TARGETS, dockerfile, options.Options())["result.json"]
    )
    assert [(t["name"], t.get("default", False)) for t in targets["targets"]] == [
        ("one", False),
        ("two", True),
    ]
    lint = subrequests.lint(dockerfile, checks.run(dockerfile), None)
    assert json.loads(lint["result.json"])["warnings"][0]["ruleName"] == "JSONArgsRecommended"
    assert lint["result.statuscode"] == b"1" and b"WARNING: JSONArgsRecommended" in lint["result.txt"]


async def test_findings_are_warnings_or_errors(tmp_path: Path) -> None:
    here = world(tmp_path, "FROM debian\nMAINTAINER x\n")
    await here.plan()
    (warned,) = [p for p in here.job.progress.values() if p.warnings]
    assert warned.name == "[internal] load build definition from Dockerfile"
    assert warned.warnings[0].short.startswith("MaintainerDeprecated: Maintainer instruction is deprecated")
    with pytest.raises(DockerfileError, match="lint violation found for rules: MaintainerDeprecated"):
        await here.plan({}, **{"build-arg__BUILDKIT_DOCKERFILE_CHECK": "error=true"})
