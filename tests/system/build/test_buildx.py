"""The stock client with buildx and Compose: what people type, and what they then read."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.system.build.plugins import Buildx
from tests.system.host import Host

STEPS = 'FROM busybox\nRUN echo hi > /a; echo said\nCOPY x /x\nCMD ["sh"]\n'
TRANSCRIPT = """\
[internal] load build definition from Dockerfile
  transferring dockerfile: SIZE done
  DONE
[internal] load metadata for docker.io/library/busybox:latest
  DONE
[internal] load .dockerignore
  transferring context: SIZE done
  DONE
[1/3] FROM docker.io/library/busybox:latest@sha256:ID
  CACHED
[internal] load build context
  transferring context: SIZE done
  DONE
[2/3] RUN echo hi > /a; echo said
  said
  DONE
[3/3] COPY x /x
  DONE
exporting to image
  exporting layers done
  exporting manifest sha256:ID done
  exporting config sha256:ID done
  naming to docker.io/library/buildx-plain:latest done
  DONE"""
"""dockerd 28.5 with the containerd image store, times and sizes left out."""


def normalised(progress: str) -> dict[str, list[str]]:
    """Steps by their names, in order, each with its lines."""
    names: dict[str, str] = {}
    steps: dict[str, list[str]] = {}
    for line in progress.splitlines():
        found = re.fullmatch(r"#([1-9]\d*) (.*)", line)
        if found is None:
            continue
        number, text = found[1], re.sub(r"sha256:[0-9a-f]{64}", "sha256:ID", found[2])
        if number not in names:
            names[number] = text
            steps[text] = []
            continue
        text = re.sub(r"^\d+\.\d+ ", "", re.sub(r" \d+\.\d+s( done)?$", r"\1", text))
        text = re.sub(r": \d+(\.\d+)?k?B", ": SIZE", text)
        lines = steps[names[number]]
        if text.endswith("done") and lines and lines[-1] in (text.removesuffix(" done"), text):
            lines.pop()
        if lines[-1:] != [text]:
            lines.append(text)
    return steps


def told(steps: dict[str, list[str]]) -> str:
    return "\n".join(
        line for name, lines in steps.items() for line in (name, *(f"  {each}" for each in lines))
    )


def test_plain_progress_is_buildkits(buildx: Buildx) -> None:
    progress = buildx.build({"Dockerfile": STEPS, "x": "x"}, "--no-cache", "-t", "buildx-plain")
    wanted, found = TRANSCRIPT.splitlines(), told(normalised(progress)).splitlines()
    assert sorted(found) == sorted(wanted)  # some steps run side by side
    order = [line for line in found if line.startswith("[") and "internal" not in line]
    assert order == [line for line in wanted if line.startswith("[") and "internal" not in line]
    assert buildx.run("buildx-plain", "cat", "/a", "/x") == "hi\nx"


def test_the_second_time_all_is_cached(buildx: Buildx) -> None:
    context = buildx.context({"Dockerfile": STEPS + f"LABEL of={os.getpid()}\n", "x": "x"})
    buildx.build(context)
    steps = normalised(buildx.build(context))
    assert steps["[2/3] RUN echo hi > /a; echo said"] == ["CACHED"]
    assert steps["[3/3] COPY x /x"] == ["CACHED"]


FAILURES = {
    "a failing command": (
        'FROM busybox\n# nothing\nRUN echo "out"; echo err >&2; exit 3\nRUN echo never\n',
        'process "/bin/sh -c echo \\"out\\"; echo err >&2; exit 3" did not complete successfully: exit code: 3',
        "Dockerfile:3\n--------------------\n   1 |     FROM busybox\n   2 |     # nothing\n"
        '   3 | >>> RUN echo "out"; echo err >&2; exit 3\n   4 |     RUN echo never\n   5 |     \n'
        "--------------------\n",
    ),
    "an unknown instruction": (
        "FROM busybox\nRUNN echo\n",
        "dockerfile parse error on line 2: unknown instruction: RUNN (did you mean RUN?)",
        "Dockerfile:2\n--------------------\n   1 |     FROM busybox\n   2 | >>> RUNN echo\n   3 |     \n"
        "--------------------\n",
    ),
    "a missing file": (
        "FROM busybox\nCOPY nofile /\n",
        '"/nofile": not found',
        "   1 |     FROM busybox\n   2 | >>> COPY nofile /\n   3 |     \n--------------------\n",
    ),
    "an unknown stage": (
        "FROM busybox\nCOPY --from=nostage.invalid/x /a /\n",
        "nostage.invalid/x",
        "   2 | >>> COPY --from=nostage.invalid/x /a /\n",
    ),
}


@pytest.mark.parametrize("what", FAILURES)
def test_failures_show_the_place(buildx: Buildx, what: str) -> None:
    dockerfile, sentence, excerpt = FAILURES[what]
    said = buildx.refused({"Dockerfile": dockerfile})
    assert said.splitlines()[-1].startswith("ERROR: failed to build: failed to solve: ")
    assert said.rstrip("\n").splitlines()[-1].endswith(sentence) or sentence in said.splitlines()[-1]
    assert excerpt in said
    if what == "a failing command":
        assert " > [3/4] RUN echo" in said or " > [2/3] RUN echo" in said
        assert "\nout\n" in re.sub(r"\n\d+\.\d+ ", "\n", said)
        assert "echo never\n#" not in said  # it was never begun


LINTED = "from busybox as Base\nMAINTAINER x\nENV a b\nLABEL q=$undefined\nCMD echo hi\n"
RULES = {
    "ConsistentInstructionCasing",
    "StageNameCasing",
    "MaintainerDeprecated",
    "LegacyKeyValueFormat",
    "JSONArgsRecommended",
    "UndefinedVar",
}


def test_checks_warn_while_building(buildx: Buildx) -> None:
    said = buildx.build({"Dockerfile": LINTED})
    assert set(re.findall(r"^(?:\x1b\[0m)? - (\w+): ", said, re.MULTILINE)) == RULES
    assert "6 warnings found" in said


def test_checks_alone(buildx: Buildx) -> None:
    context = buildx.context({"Dockerfile": LINTED})
    result = buildx.attempt(context, "--check")
    assert result.returncode == 1
    text = result.stdout.decode()
    assert text.startswith("Check complete, 6 warnings have been found!")
    assert set(re.findall(r"^WARNING: (\w+) - https://docs", text, re.MULTILINE)) == RULES
    fine = buildx.attempt({"Dockerfile": "FROM busybox\n"}, "--check")
    assert fine.returncode == 0
    assert "no warnings found" in fine.stdout.decode()
    broken = buildx.attempt({"Dockerfile": "FROM busybox\nENV a b\nENV c=${d:?needed}\nCMD x\n"}, "--check")
    assert broken.returncode == 1
    assert broken.stdout.decode().startswith("Check complete, 2 warnings have been found!")
    assert 'ERROR: failed to process "${d:?needed}": d: needed' in broken.stderr.decode()


def test_checks_fail_a_build_that_says_so(buildx: Buildx) -> None:
    said = buildx.refused({"Dockerfile": "# check=error=true\nFROM busybox\nENV a=$b\n"})
    assert "WARN: UndefinedVar: Usage of undefined variable '$b' (line 3)" in said
    assert said.rstrip().endswith("failed to solve: lint violation found for rules: UndefinedVar")


def test_outline_and_targets(buildx: Buildx) -> None:
    context = buildx.context(
        {
            "Dockerfile": "ARG V=1\nFROM busybox AS one\nARG V\nRUN --mount=type=secret,id=k :\nFROM one AS two\n"
        }
    )
    targets = json.loads(buildx.docker("build", "--call=targets,format=json", str(context)))
    assert [each["name"] for each in targets["targets"]] == ["one", "two"]
    outline = json.loads(buildx.docker("build", "--call=outline,format=json", "--target=one", str(context)))
    assert [(each["name"], each["value"]) for each in outline["args"]] == [("V", "1")]
    assert [each["name"] for each in outline["secrets"]] == ["k"]
    described = buildx.docker("build", "--call=subrequests.describe", str(context))
    assert "outline" in described
    refused = buildx.try_docker("build", "--call=nosuch", str(context))
    assert b"unsupported request frontend.nosuch" in refused.stderr


def test_metadata_names_the_image_and_the_build(buildx: Buildx, tmp_path: Path) -> None:
    place = tmp_path / "metadata.json"
    buildx.build({"Dockerfile": STEPS, "x": ""}, "-t", "buildx-meta", "--metadata-file", str(place))
    metadata = json.loads(place.read_text())
    assert metadata["image.name"] == "docker.io/library/buildx-meta:latest"
    assert metadata["containerimage.config.digest"] == buildx.host.inspect("buildx-meta")["Id"]
    assert metadata["containerimage.digest"] == metadata["containerimage.config.digest"]
    assert re.fullmatch(r"default/default/\w+", metadata["buildx.build.ref"])
    quiet = buildx.docker(
        "build", "-q", str(buildx.context({"Dockerfile": STEPS, "x": ""})), BUILDKIT_PROGRESS="auto"
    )
    assert quiet.strip() == buildx.host.inspect("buildx-meta")["Id"]


def test_a_dockerfile_from_stdin(buildx: Buildx) -> None:
    result = buildx.try_docker(
        "build", "-t", "buildx-stdin", "-", input=b"FROM busybox\nRUN echo stdin > /s\n"
    )
    assert result.returncode == 0, result.stderr.decode()
    context = buildx.context({"x": "of the context"})
    result = buildx.try_docker(
        "build", "-t", "buildx-stdin2", "-f-", str(context), input=b"FROM buildx-stdin\nCOPY x /\n"
    )
    assert result.returncode == 0, result.stderr.decode()
    assert buildx.run("buildx-stdin2", "cat", "/s", "/x") == "stdin\nof the context"


def test_hosts_of_the_users_and_the_hosts_own(buildx: Buildx) -> None:
    """buildx asks the worker what host-gateway means."""
    said = buildx.build(
        {"Dockerfile": "FROM busybox\nRUN cat /etc/hosts\n"},
        "--no-cache", "--add-host=one:1.2.3.4", "--add-host=two:host-gateway",
    )  # fmt: skip
    networks = json.loads(buildx.docker("network", "inspect", "bridge"))
    gateway = networks[0]["IPAM"]["Config"][0]["Gateway"]
    assert re.search(r"1\.2\.3\.4\s+one$", said, re.MULTILINE)
    assert re.search(rf"{re.escape(gateway)}\s+two$", said, re.MULTILINE)


# -- bake and Compose


BAKE = """
group "default" { targets = ["a", "b"] }
target "base" { dockerfile-inline = "FROM busybox\\nRUN echo base > /base" }
target "a" {
  contexts = { below = "target:base" }
  dockerfile-inline = "FROM below\\nRUN cat /base > /a"
  tags = ["bake-a"]
}
target "b" {
  contexts = { below = "target:base" }
  dockerfile-inline = "FROM busybox\\nCOPY --from=below /base /b"
  tags = ["bake-b"]
}
"""


def test_bake_builds_targets_upon_targets(buildx: Buildx) -> None:
    context = buildx.context({"docker-bake.hcl": BAKE})
    buildx.docker("buildx", "bake", cwd=context)
    assert buildx.run("bake-a", "cat", "/a", "/base") == "base\nbase\n"
    assert buildx.run("bake-b", "cat", "/b") == "base\n"


def test_compose_builds_and_starts(buildx: Buildx) -> None:
    compose = "services:\n  web:\n    build: .\n    image: compose-web\n"
    compose += "    command: [cat, /x]\n    network_mode: none\n"
    compose += '  more:\n    build: {dockerfile_inline: "FROM busybox\\nRUN echo more > /more"}\n'
    compose += "    image: compose-more\n    command: [cat, /more]\n    network_mode: none\n"
    context = buildx.context({"compose.yaml": compose, "Dockerfile": STEPS, "x": "of compose\n"})
    try:
        buildx.compose("build", cwd=context)
        said = buildx.compose("up", cwd=context)
        assert "of compose" in said
        assert "more" in said
    finally:
        buildx.compose("down", cwd=context)


# -- history, usage


def test_history_keeps_what_was_built(buildx: Buildx) -> None:
    name = f"history{os.getpid()}"
    directory = buildx.directory / name
    directory.mkdir()
    (directory / "Dockerfile").write_text(f"FROM busybox\nRUN echo {name} said\n")
    buildx.build(directory)
    assert buildx.attempt({"Dockerfile": "FROM busybox\nRUN echo why; exit 3\n"}).returncode == 1
    rows = [
        json.loads(line) for line in buildx.docker("buildx", "history", "ls", "--format=json").splitlines()
    ]
    assert [row["status"] for row in rows[:2]] == ["Error", "Completed"]
    ref = rows[1]["ref"].rpartition("/")[2]
    log = buildx.try_docker("buildx", "history", "logs", ref)
    assert f"{name} said" in (log.stdout + log.stderr).decode()
    inspected = json.loads(buildx.docker("buildx", "history", "inspect", ref, "--format=json"))
    assert inspected["Status"] == "completed"
    failed = json.loads(buildx.docker("buildx", "history", "inspect", "--format=json"))
    assert "exit code: 3" in failed["Error"]["Message"]
    assert (failed["Error"]["Name"], failed["Error"]["Logs"]) == ("[2/2] RUN echo why; exit 3", ["why"])
    assert failed["NumCompletedSteps"] == failed["NumTotalSteps"]
    assert "2 | >>> RUN echo why; exit 3" in buildx.docker("buildx", "history", "inspect")
    buildx.docker("buildx", "history", "rm", ref)
    assert ref not in buildx.docker("buildx", "history", "ls")


def test_history_leads_to_what_was_made(buildx: Buildx, tmp_path: Path) -> None:
    """At once after a build: the index and the manifest as they are in the store, and the provenance."""
    context = buildx.context({"Dockerfile": "FROM busybox\nLABEL of=history\n"})
    buildx.docker("buildx", "build", "-t", "history-made", "--provenance=true", str(context))
    shown = json.loads(buildx.docker("buildx", "history", "inspect", "--format=json"))
    kinds = {each["Type"]: each for each in shown["Attachments"]}
    index = kinds["application/vnd.oci.image.index.v1+json"]["Digest"]
    manifest = kinds["application/vnd.oci.image.manifest.v1+json"]
    assert manifest["Platform"] == "linux/amd64" and "https://slsa.dev/provenance/v0.2" in kinds
    raw = buildx.docker("buildx", "history", "inspect", "attachment", shown["Ref"], index)
    assert manifest["Digest"] in [each["digest"] for each in json.loads(raw)["manifests"]]
    assert json.loads(buildx.docker("image", "inspect", "history-made"))[0]["Descriptor"]["digest"] == index
    buildx.docker("buildx", "history", "export", "--finalize", "-o", str(tmp_path / "record"), shown["Ref"])
    with tarfile.open(tmp_path / "record") as tar:
        assert f"blobs/sha256/{index.partition(':')[2]}" in tar.getnames()
    buildx.docker("rmi", "history-made")


def test_usage_pruning_and_a_history_that_outlives_the_daemon(own_host: Host, tmp_path: Path) -> None:
    buildx = Buildx(own_host, tmp_path)
    files = {"Dockerfile": "FROM busybox\nRUN head -c 100000 /dev/zero > /zeros; echo remembered\n"}
    buildx.build(files, "--output=type=cacheonly")
    usage = buildx.docker("buildx", "du", "--verbose")
    assert re.search(r"Description:\s+.*head -c 100000", usage)
    assert "Build Cache 0" not in buildx.docker("system", "df", "--format", "{{.Type}} {{.TotalCount}}")
    gone = buildx.docker("buildx", "prune", "--all", "--force")
    assert re.search(r"Total:\s+10\d(\.\d+)?kB", gone)
    assert re.search(r"Total:\s+0B", buildx.docker("buildx", "du"))
    own_host.restart()
    ref = json.loads(buildx.docker("buildx", "history", "ls", "--format=json"))["ref"].rpartition("/")[2]
    log = buildx.try_docker("buildx", "history", "logs", ref)
    assert "remembered" in (log.stdout + log.stderr).decode()
    assert "default" in buildx.docker("buildx", "inspect")


# -- clients that go


def _sleepers(mark: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            if mark.encode() in (entry / "cmdline").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found


def until(condition: Callable[[], object], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.02)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_client_that_goes_takes_its_build_along(
    buildx: Buildx, host: Host, leftovers: Callable[[], list[str]], how: signal.Signals
) -> None:
    buildx.build({"Dockerfile": STEPS, "x": ""})  # all is loaded that a build loads
    assert host.process
    descriptors = Path(f"/proc/{host.process.pid}/fd")
    until(lambda: not leftovers())
    before = len(list(descriptors.iterdir()))
    length = f"{1000 + os.getpid() % 1000}.{int(how)}"
    context = buildx.context({"Dockerfile": f"FROM busybox\nRUN sleep {length}\n"})
    client = subprocess.Popen(
        ["docker", "build", "--no-cache", str(context)],
        env=buildx.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        until(lambda: _sleepers(length), 20)
    finally:
        os.killpg(client.pid, how)
        client.wait()
    until(lambda: not _sleepers(length), 3)
    until(lambda: not leftovers())
    until(lambda: len(list(descriptors.iterdir())) <= before)
