"""Provenance and lists of contents through buildx: in images, directories and the metadata file."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import tarfile
from pathlib import Path
from typing import Any

from tests.system.build.plugins import Buildx
from tests.system.build.test_build_sources import repository, web  # noqa: F401 - fixtures

DOCKERFILE = """FROM busybox AS made
ARG SECRET_ARG
RUN --mount=type=secret,id=token --network=none echo x > /x
FROM scratch
LABEL a=b
COPY --from=made /x /x
COPY f /f
"""
FILES = {"Dockerfile": DOCKERFILE, "f": "1"}


def metadata(buildx: Buildx, *flags: str, **environment: str) -> dict[str, Any]:
    context, path = buildx.context(FILES), buildx.directory / "metadata.json"
    buildx.environment |= environment
    result = buildx.try_docker("build", "--metadata-file", str(path), *flags, str(context))
    assert result.returncode == 0, result.stderr.decode()
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_provenance_in_the_metadata_file(buildx: Buildx) -> None:
    found = metadata(
        buildx,
        "--provenance=mode=max",
        "--build-arg=SECRET_ARG=geheim",
        "--label=l=m",
        BUILDX_METADATA_PROVENANCE="max",
        BUILDX_NO_DEFAULT_ATTESTATIONS="",
    )
    made = found["buildx.build.provenance"]
    assert made["buildType"] == "https://mobyproject.org/buildkit@v1"
    (busybox,) = made["materials"]
    assert busybox["uri"] == "pkg:docker/busybox@latest?platform=linux%2Famd64"
    assert len(busybox["digest"]["sha256"]) == 64
    parameters = made["invocation"]["parameters"]
    assert parameters["frontend"] == "dockerfile.v0"
    assert parameters["args"]["build-arg:SECRET_ARG"] == "geheim" and parameters["args"]["label:l"] == "m"
    assert parameters["secrets"] == [{"id": "token", "optional": True}]
    assert parameters["locals"] == [{"name": "context"}, {"name": "dockerfile"}]
    assert made["invocation"]["configSource"] == {"entryPoint": "Dockerfile"}
    assert made["metadata"]["completeness"] == {"parameters": True, "environment": True, "materials": False}
    steps = made["buildConfig"]["llbDefinition"]
    assert any("exec" in step["op"]["Op"] for step in steps)
    assert steps[-1]["op"] == {"Op": {}}
    details = made["metadata"]["https://mobyproject.org/buildkit@v1#metadata"]
    (text,) = details["source"]["infos"]
    assert text["filename"] == "Dockerfile" and base64.b64decode(text["data"]).decode() == DOCKERFILE
    assert {"start": {"line": 3}, "end": {"line": 3}} in [
        each["ranges"][0]
        for step in details["source"]["locations"].values()
        for each in step.get("locations", ())
    ]
    assert details["layers"]


def test_provenance_in_a_directory_and_an_archive(buildx: Buildx, tmp_path: Path) -> None:
    context = buildx.context(FILES)
    buildx.docker("build", "--provenance=version=v1", "-o", f"type=local,dest={tmp_path}/out", str(context))
    statement = json.loads((tmp_path / "out/provenance.json").read_text())
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    assert statement["predicate"]["buildDefinition"]["internalParameters"]["builderPlatform"] == "linux/amd64"
    archive = tmp_path / "image.tar"
    flags = ("--build-arg=SECRET_ARG=geheim", "-t", "n", "-o", f"type=oci,dest={archive}")
    buildx.docker("build", "--provenance=mode=min", *flags, str(context))
    with tarfile.open(archive) as tar:
        bodies = [_read(tar, name) for name in tar.getnames() if name.startswith("blobs/sha256/")]
    found = [json.loads(body) for body in bodies if body.startswith(b"{")]
    attested = [each for each in found if each.get("predicateType") == "https://slsa.dev/provenance/v0.2"]
    assert len(attested) == 1 and attested[0]["subject"]
    assert "geheim" not in json.dumps(attested) and "llbDefinition" not in json.dumps(attested)


def test_what_the_machine_was_busy_with(buildx: Buildx, tmp_path: Path) -> None:
    """Only where it is asked for; the members are dockerd's (28.5.2)."""
    context = buildx.context({"Dockerfile": "FROM busybox\nRUN sleep 0.1\n"})
    for mode in ("min", "max"):
        flags = ("--no-cache", f"--provenance=mode={mode},capture-usage=true", "-o", f"{tmp_path}/{mode}")
        buildx.docker("build", *flags, str(context))
        said = json.loads((tmp_path / mode / "provenance.json").read_text())["predicate"]["metadata"]
        first, *_, last = said["https://mobyproject.org/buildkit@v1#metadata"]["sysUsage"]
        assert set(first) >= {"timestamp", "cpuStat", "procStat", "memoryStat"}
        assert (
            said["buildStartedOn"][:16] <= first["timestamp"][:16] and first["timestamp"] < last["timestamp"]
        )
        assert last["cpuStat"]["user"] >= first["cpuStat"]["user"] > 0
        assert last["procStat"]["processCreated"] > first["procStat"]["processCreated"]
    buildx.docker("build", "--provenance=mode=max", "-o", f"{tmp_path}/without", str(context))
    assert "sysUsage" not in (tmp_path / "without/provenance.json").read_text()


def _read(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(name)
    return file.read() if file is not None else b""


GENERATOR = r"""#!/bin/sh
env | grep ^BUILDKIT_SCAN > /tmp/env
cat > "$BUILDKIT_SCAN_DESTINATION/sbom.spdx.json" <<END
{"_type": "https://in-toto.io/Statement/v0.1", "predicateType": "https://spdx.dev/Document", "predicate":
 {"spdxVersion": "SPDX-2.3", "name": "$(ls "$BUILDKIT_SCAN_SOURCE" | tr '\n' ' ')",
  "comment": "$(ls "$BUILDKIT_SCAN_SOURCE_EXTRAS" 2>/dev/null | tr '\n' ' ') $BUILDKIT_SCAN_COLOUR"}}
END
"""


def test_a_list_of_contents(buildx: Buildx, registry: str, tmp_path: Path) -> None:
    generator = {
        "Dockerfile": 'FROM busybox\nCOPY --chmod=755 scan /scan\nENTRYPOINT ["/scan"]\n',
        "scan": GENERATOR,
    }
    name = f"{registry}/scanner:1"
    buildx.build(generator, "-t", name, "--push")
    scanned = {
        **FILES,
        "Dockerfile": "ARG BUILDKIT_SBOM_SCAN_STAGE=true\nARG BUILDKIT_SBOM_SCAN_CONTEXT=true\n" + DOCKERFILE,
    }
    context = buildx.context(scanned)
    wanted = f"--sbom=generator={name},COLOUR=blue"
    buildx.docker("build", wanted, "-o", f"type=local,dest={tmp_path}/out", str(context))
    statement = json.loads((tmp_path / "out/sbom.spdx.json").read_text())
    assert statement["predicate"]["name"].split() == ["f", "x"]
    assert statement["predicate"]["comment"].split() == ["sbom-context", "sbom-made", "blue"]
    image = f"{registry}/scanned:1"
    buildx.docker("build", wanted, "--push", "-t", image, str(context))
    shown = buildx.docker("buildx", "imagetools", "inspect", image, "--format", "{{json .SBOM}}")
    assert json.loads(shown)["SPDX"]["spdxVersion"] == "SPDX-2.3"


LISTS = r"""#!/bin/sh
cat > "$BUILDKIT_SCAN_DESTINATION/sbom.spdx.json" <<END
{"_type": "https://in-toto.io/Statement/v0.1", "predicateType": "https://spdx.dev/Document", "predicate":
 {"spdxVersion": "SPDX-2.3", "files": [{"fileName": "/one"}, {"fileName": "d/two", "comment": "mine"},
  {"fileName": "./d/three"}, {"fileName": "/gone"}, {"fileName": "/bin/busybox"}, {"fileName": "/nowhere"}]}}
END
"""


def test_lists_name_layers(buildx: Buildx, registry: str) -> None:
    """The same list was given to dockerd 28.5.2 (containerd's store), which names the same layers."""
    scanner = {"Dockerfile": 'FROM busybox\nCOPY --chmod=755 scan /\nENTRYPOINT ["/scan"]\n', "scan": LISTS}
    buildx.build(scanner, "-t", f"{registry}/lister:1", "--push")
    steps = ("COPY f /one", "RUN mkdir /d && touch /d/two /d/three /gone", "RUN echo 2 > /d/three; rm /gone")
    context = buildx.context({**FILES, "Dockerfile": "\n".join(["FROM busybox", *steps, ""])})
    image = f"{registry}/listed:1"
    flags = (f"--sbom=generator={registry}/lister:1", "--provenance=false", "--push", "-t", image)
    buildx.docker("build", *flags, str(context))
    shown = buildx.docker("buildx", "imagetools", "inspect", image, "--format", "{{json .SBOM.SPDX.files}}")
    comments = [each.get("comment") for each in json.loads(shown)]
    manifests = json.loads(buildx.docker("buildx", "imagetools", "inspect", "--raw", image))["manifests"]
    raw = buildx.docker("buildx", "imagetools", "inspect", "--raw", f"{image}@{manifests[0]['digest']}")
    base, one, three, changed = [f"layerID: {each['digest']}" for each in json.loads(raw)["layers"]]
    assert comments == [one, "mine", changed, three, base, None]
    buildx.docker("rmi", image, f"{registry}/lister:1")


def test_generators_that_fail(buildx: Buildx, registry: str) -> None:
    context = buildx.context(FILES)
    result: subprocess.CompletedProcess[bytes] = buildx.try_docker(
        "build", f"--sbom=generator={registry}/absent:1", "-o", "type=cacheonly", str(context)
    )
    assert result.returncode != 0 and b"absent" in result.stderr
    result = buildx.try_docker("build", "--sbom=generator=busybox,x=y", "-o", "type=cacheonly", str(context))
    assert result.returncode == 0, "a generator may find nothing"


def test_materials_from_elsewhere(buildx: Buildx, web: tuple[str, Path], repository: str) -> None:  # noqa: F811
    """A repository as the context, and a file by URL."""
    url, root = web
    (root / "file").write_text("content")
    work = root / "work"
    subprocess.run(
        ["git", "clone", "-q", str(root / "repository.git"), str(work)], check=True, capture_output=True
    )
    head = subprocess.run(
        ["git", "-C", str(work), "rev-parse", "v1"], check=True, capture_output=True, text=True
    )
    dockerfile = f"FROM busybox\nADD {url}/file /file\nCOPY f /f\nRUN --network=none cat /file\n"
    path = buildx.directory / "metadata.json"
    buildx.environment |= {"BUILDX_METADATA_PROVENANCE": "max"}
    result = buildx.try_docker(
        "build", "--metadata-file", str(path), "-f-", f"{repository}#v1:sub", input=dockerfile.encode()
    )
    assert result.returncode == 0, result.stderr.decode()
    made = json.loads(path.read_text())["buildx.build.provenance"]
    materials = {each["uri"]: each["digest"] for each in made["materials"]}
    assert materials[f"{repository}#v1"] == {"sha1": head.stdout.strip()}
    assert materials[f"{url}/file"] == {"sha256": hashlib.sha256(b"content").hexdigest()}
    source = made["invocation"]["configSource"]
    assert source["uri"].startswith(repository) and source["digest"] == {"sha1": head.stdout.strip()}
