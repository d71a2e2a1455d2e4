"""Outputs as people ask buildx for them: names, registries, archives, directories; BuildKit's own bytes."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import tarfile
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.build import peers
from tests.system.build.plugins import Buildx
from tests.system.images_registry import docker_registry, htpasswd

BOTH = "linux/amd64,linux/arm64"
ATTESTED = {"BUILDX_NO_DEFAULT_ATTESTATIONS": "0"}
TWO = {"Dockerfile": "FROM scratch\nARG TARGETARCH\nCOPY f /f-$TARGETARCH\nLABEL of=outputs\n", "f": "hi\n"}
EVERYTHING = """\
FROM scratch AS base
ARG TARGETARCH
COPY --chown=7:8 --chmod=750 d /d-$TARGETARCH
FROM base
COPY --chmod=644 d/f /other/
LABEL b=2 a="<1> & 2"
ENV X=y
EXPOSE 80 53/udp
USER 5
VOLUME /v
HEALTHCHECK --interval=3s CMD x
STOPSIGNAL INT
ENTRYPOINT ["/e"]
CMD a b
ONBUILD RUN c
SHELL ["/s"]
"""
INDEX_OF_BUILDKIT = "sha256:14d1fad5a60ca9b8a75838f9afdac309fa04ac03b8cd882c9e71394a2e5487b2"
ARCHIVE_OF_BUILDKIT = "63c62a8f8f5c6af82e0baa3d26fec4be9cb6e03c62f8bbae60deca5ad02ba193"
"""What dockerd 28.5.2 (BuildKit 0.25.2, containerd's store) made of EVERYTHING."""


@pytest.fixture
def locked_registry(tmp_path: Path) -> Iterator[str]:
    with docker_registry(tmp_path / "registry", htpasswd("me", "secret")) as address:
        yield address


def _metadata(buildx: Buildx, context: Path, *flags: str, **environment: str) -> dict[str, Any]:
    """buildx' metadata file of a build."""
    path = buildx.directory / "metadata.json"
    buildx.docker("buildx", "build", "--metadata-file", str(path), *flags, str(context), **environment)
    return json.loads(path.read_text())  # type: ignore[no-any-return]


def test_platforms_and_attestations_to_a_locked_registry(buildx: Buildx, locked_registry: str) -> None:
    """The client's credentials; one index under all names; docker push and pull by its digest; gone with rmi."""
    auth = base64.b64encode(b"me:secret").decode()
    config = buildx.config_directory / "config.json"
    config.write_text(json.dumps({"auths": {locked_registry: {"auth": auth}}}))
    name, context = f"{locked_registry}/out/app", buildx.context(TWO)
    told = _metadata(
        buildx, context, "--platform", BOTH, "-t", f"{name}:1", "-t", f"{name}:2", "--push", **ATTESTED
    )
    digest = told["containerimage.digest"]
    assert told["containerimage.descriptor"]["digest"] == digest
    assert told["image.name"] == f"{name}:1,{name}:2"
    raw = buildx.docker("buildx", "imagetools", "inspect", "--raw", f"{name}:2")
    index = json.loads(raw)
    assert f"sha256:{hashlib.sha256(raw.encode()).hexdigest()}" == digest
    shown = [each["platform"]["os"] + "/" + each["platform"]["architecture"] for each in index["manifests"]]
    assert shown == ["linux/amd64", "linux/arm64", "unknown/unknown", "unknown/unknown"]
    provenance = buildx.docker(
        "buildx",
        "imagetools",
        "inspect",
        f"{name}:1",
        "--format",
        '{{json (index .Provenance "linux/arm64")}}',
    )
    assert json.loads(provenance)["SLSA"]["buildType"] == "https://mobyproject.org/buildkit@v1"
    inspected = json.loads(buildx.docker("image", "inspect", f"{name}:1"))[0]
    assert inspected["Id"] == told["containerimage.config.digest"] and inspected["Architecture"] == "amd64"
    assert inspected["RepoDigests"] == [f"{name}@{digest}"]
    buildx.docker("tag", f"{name}:1", f"{name}:again")
    assert digest in buildx.docker("push", f"{name}:again")
    buildx.docker("rmi", f"{name}:1", f"{name}:2", f"{name}:again")
    assert buildx.try_docker("image", "inspect", told["containerimage.config.digest"]).returncode != 0
    buildx.docker("pull", "--platform", "linux/arm64", f"{name}@{digest}")
    assert json.loads(buildx.docker("image", "inspect", f"{name}@{digest}"))[0]["Architecture"] == "arm64"
    buildx.docker("rmi", f"{name}@{digest}")
    config.write_text("{}")
    refused = buildx.try_docker("buildx", "build", "-t", f"{name}:1", "--push", str(context))
    assert refused.returncode != 0 and f"failed to push {name}:1" in refused.stderr.decode()
    buildx.docker("rmi", f"{name}:1")


def test_an_image_id_is_what_is_printed(buildx: Buildx, tmp_path: Path) -> None:
    context = buildx.context(TWO)
    printed = buildx.docker("buildx", "build", "-q", str(context), **ATTESTED).strip()
    buildx.docker("buildx", "build", "--iidfile", str(tmp_path / "id"), str(context), **ATTESTED)
    assert (tmp_path / "id").read_text() == printed
    assert json.loads(buildx.docker("image", "inspect", printed))[0]["Id"] == printed
    listed = buildx.docker("images", "-a", "--no-trunc", "--format", "{{.ID}} {{.Repository}}")
    assert f"{printed} <none>" in listed
    told = _metadata(buildx, context, **ATTESTED)
    assert told["containerimage.digest"] == told["containerimage.config.digest"] == printed
    written = told["containerimage.descriptor"]["digest"]
    by_digest = json.loads(buildx.docker("image", "inspect", written))[0]
    assert by_digest["Id"] == printed and by_digest["Descriptor"]["digest"] == written
    buildx.docker("rmi", written)


def test_compose_knows_what_it_built(buildx: Buildx) -> None:
    """Up again without building: the containers are those of before."""
    files = {
        "compose.yaml": "services:\n  one:\n    build: .\n    network_mode: none\n",
        "Dockerfile": 'FROM busybox\nCMD ["sleep", "300"]\n',
    }
    context = buildx.context(files)

    def up(*flags: str) -> str:
        buildx.compose("-p", "outputs", "up", "-d", *flags, cwd=context, **ATTESTED)
        return buildx.docker("ps", "-q", "--no-trunc").strip()

    try:
        first = up("--build")
        assert first and up() == first
    finally:
        buildx.compose("-p", "outputs", "down", "-t", "0", "--rmi", "local", cwd=context)


def test_an_index_is_built_upon(buildx: Buildx) -> None:
    """FROM a local name of several platforms takes each platform's own."""
    buildx.docker("buildx", "build", "--platform", BOTH, "-t", "out-base", str(buildx.context(TWO)))
    files = {"Dockerfile": "FROM out-base\nLABEL more=1\n"}
    context = buildx.context(files)
    buildx.docker("buildx", "build", "--platform", BOTH, "-t", "out-derived", str(context))
    for architecture in ("amd64", "arm64"):
        shown = buildx.docker(
            "image", "inspect", "--platform", f"linux/{architecture}", "out-derived", "out-base"
        )
        derived, base = json.loads(shown)
        assert derived["Architecture"] == base["Architecture"] == architecture
        assert derived["RootFS"] == base["RootFS"]
    assert "linux/arm64" in buildx.docker("image", "ls", "--tree", "out-derived")
    created = buildx.docker("create", "--platform", "linux/arm64", "out-derived", "/x").strip()
    arm = json.loads(buildx.docker("image", "inspect", "--platform", "linux/arm64", "out-derived"))[0]["Id"]
    assert json.loads(buildx.docker("inspect", created))[0]["Image"] == arm
    assert buildx.docker("ps", "-a", "--format", "{{.Image}}").split() == ["out-derived"]
    refused = buildx.try_docker("rmi", "out-derived")
    assert f"container {created[:12]} is using its referenced image" in refused.stderr.decode()
    buildx.docker("rm", created)
    buildx.docker("rmi", "out-derived", "out-base")


def test_archives_that_others_read(buildx: Buildx, tmp_path: Path) -> None:
    context = buildx.context(TWO)
    docker, oci, layout = tmp_path / "docker.tar", tmp_path / "oci.tar", tmp_path / "layout"
    buildx.docker(
        "buildx", "build", "-t", "out-d:1", "-t", "out-e", "-o", f"type=docker,dest={docker}", str(context)
    )
    both = ("--platform", BOTH, "-t", "out-o:1", "--provenance=true")
    buildx.docker("buildx", "build", *both, "-o", f"type=oci,dest={oci}", str(context))
    buildx.docker("buildx", "build", *both, "-o", f"type=oci,tar=false,dest={layout}", str(context))
    for source in (f"docker-archive:{docker}:out-e:latest", f"oci-archive:{oci}:1", f"oci:{layout}:1"):
        subprocess.run(
            ["skopeo", "copy", "--override-arch", "amd64", source, f"dir:{tmp_path}/copy"],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
    assert buildx.try_docker("image", "inspect", "out-o:1").returncode != 0  # an output is no image here
    assert "Loaded image: out-o:1" in buildx.docker("load", "-i", str(oci))
    assert "Loaded image: out-e:latest" in buildx.docker("load", "-i", str(docker))
    with tarfile.open(oci) as tar:
        digest = json.load(tar.extractfile("index.json"))["manifests"][0]["digest"]  # type: ignore[arg-type]
    shown = json.loads(buildx.docker("image", "inspect", "out-o:1"))[0]
    assert shown["Descriptor"]["digest"] == digest
    saved = tmp_path / "saved.tar"
    buildx.docker("save", "-o", str(saved), "out-o:1")
    with tarfile.open(saved) as tar, tarfile.open(oci) as other:
        assert {name for name in tar.getnames() if "sha256/" in name} == {
            name for name in other.getnames() if "sha256/" in name
        }
    buildx.docker("rmi", "out-o:1", "out-d:1", "out-e")


def test_files_and_their_provenance(buildx: Buildx, tmp_path: Path) -> None:
    context = buildx.context(TWO)
    flags = ("--platform", BOTH, "--provenance=true")
    buildx.docker("buildx", "build", *flags, "-o", str(tmp_path / "split"), str(context))
    assert sorted(str(path.relative_to(tmp_path)) for path in (tmp_path / "split").glob("*/*")) == [
        "split/linux_amd64/f-amd64",
        "split/linux_amd64/provenance.json",
        "split/linux_arm64/f-arm64",
        "split/linux_arm64/provenance.json",
    ]
    said = json.loads((tmp_path / "split/linux_arm64/provenance.json").read_text())
    encoded = hashlib.sha256(b"hi\n").hexdigest()
    assert said["subject"] == [{"name": "f-arm64", "digest": {"sha256": encoded}}]
    buildx.docker(
        "buildx", "build", "--platform", BOTH, "-o", f"type=local,platform-split=false,dest={tmp_path}/flat",
        "--build-arg", "SOURCE_DATE_EPOCH=1600000000", str(context),
    )  # fmt: skip
    found = {path.name: path.stat().st_mtime for path in (tmp_path / "flat").iterdir()}
    assert found == {"f-amd64": 1600000000, "f-arm64": 1600000000}
    result = buildx.try_docker("buildx", "build", "-o", "-", str(context))
    (tmp_path / "out.tar").write_bytes(result.stdout)
    with tarfile.open(tmp_path / "out.tar") as tar:
        assert tar.getnames() == ["f-amd64"]


def test_the_bytes_that_buildkit_writes(buildx: Buildx, tmp_path: Path) -> None:
    """Configurations, histories, manifests, annotations, layers' archives: one digest says that all are equal."""
    context = buildx.context({"Dockerfile": EVERYTHING, "d/f": "hello\n"})
    (context / "d/l").symlink_to("f")
    output = "rewrite-timestamp=true,compression=uncompressed,force-compression=true"
    common = ("--build-arg", "SOURCE_DATE_EPOCH=1600000000", "--provenance=false", "-t", "x/y:z")
    told = _metadata(
        buildx, context, *common, "--platform", BOTH, "--annotation", "index:i=1",
        "--annotation", "manifest[linux/arm64]:m=2", "--annotation", "manifest-descriptor:d=3",
        "-o", f"type=oci,{output},dest={tmp_path}/oci.tar",
    )  # fmt: skip
    assert told["containerimage.digest"] == INDEX_OF_BUILDKIT
    buildx.docker(
        "buildx", "build", *common, "-o", f"type=docker,{output},dest={tmp_path}/docker.tar", str(context)
    )
    assert hashlib.sha256((tmp_path / "docker.tar").read_bytes()).hexdigest() == ARCHIVE_OF_BUILDKIT


@pytest.mark.parametrize("compression", ["zstd", "gzip"])
def test_reproducible_in_the_store_and_the_registry(buildx: Buildx, registry: str, compression: str) -> None:
    digests = set()
    name = f"{registry}/out/same:{compression}"
    attributes = f"type=image,name={name},push=true,rewrite-timestamp=true,compression={compression}"
    for _ in range(2):
        told = _metadata(
            buildx, buildx.context(TWO), "--no-cache", "--provenance=false", "--build-arg",
            "SOURCE_DATE_EPOCH=1600000000", "-o", f"{attributes},force-compression=true,oci-mediatypes=true",
        )  # fmt: skip
        digests.add(told["containerimage.digest"])
    assert len(digests) == 1
    (digest,) = digests
    kind = "application/vnd.oci.image.manifest.v1+json"
    repository = f"http://{registry}/v2/out/same"
    request = urllib.request.Request(f"{repository}/manifests/{digest}", headers={"Accept": kind})
    with urllib.request.urlopen(request) as answer:
        (layer,) = json.load(answer)["layers"]
    assert layer["mediaType"] == f"application/vnd.oci.image.layer.v1.tar+{compression}"
    assert layer["annotations"] == {"buildkit/rewritten-timestamp": "1600000000"}
    buildx.docker("rmi", name)
    buildx.docker("pull", name)
    assert json.loads(buildx.docker("image", "inspect", name))[0]["Created"] == "2020-09-13T12:26:40Z"
    buildx.docker("rmi", name)


def test_refusals_come_before_the_build(buildx: Buildx) -> None:
    context = buildx.context(TWO)
    check: Callable[..., Any] = buildx.try_docker
    for output, text in (
        ("type=image,name=x,compression=estargz", "estargz"),
        ("type=image,name=x,push=perhaps", "perhaps"),
        ("type=image,name=UPPER", "must be lowercase"),
        ("type=image,name=x,annotation-index.a=b", "index annotations not supported for single platform"),
    ):
        result = check("buildx", "build", "-o", output, str(context))
        assert result.returncode != 0 and text in result.stderr.decode(), result.stderr.decode()


def test_a_directory_keeps_what_was_there(buildx: Buildx, tmp_path: Path) -> None:
    """`mode=delete` is of later clients; dockerd 28.5 looks at it as little as at any other word."""
    context, out = buildx.context(TWO), tmp_path / "out"
    out.mkdir()
    (out / "old").write_text("old")
    buildx.docker("buildx", "build", "-o", f"type=local,dest={out},mode=delete,no-such=word", str(context))
    assert sorted(path.name for path in out.iterdir()) == ["f-amd64", "old"]


def test_dockerd_and_pyd_read_each_other(buildx: Buildx, tmp_path: Path) -> None:
    """Our archive has the bytes that dockerd read and ran; what it saved of that is the same image here."""
    told = peers.Exchange.of(json.loads(peers.EXCHANGED.read_text()))
    archive = tmp_path / "ours.tar"
    peers.ours(buildx, archive)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    assert digest == told.archive, "dockerd knows another archive of ours: python -m tests.system.build.peers"
    assert buildx.docker("load", "-i", str(archive)) == told.loaded
    for come in (archive, peers.ARCHIVE):
        buildx.docker("load", "-i", str(come))
        assert json.loads(buildx.docker("image", "inspect", peers.TAG))[0]["Id"] == told.id
        assert buildx.docker("run", "--rm", "--network", "none", peers.TAG) == told.wrote
        buildx.docker("rmi", peers.TAG)


@pytest.mark.peer
def test_dockerd_still_says_so(buildx: Buildx, tmp_path: Path) -> None:
    peers.ours(buildx, tmp_path / "ours.tar")
    told = peers.exchange(tmp_path / "ours.tar", tmp_path / "back.tar")
    assert told == peers.Exchange.of(json.loads(peers.EXCHANGED.read_text()))
    buildx.docker("load", "-i", str(tmp_path / "back.tar"))
    assert buildx.docker("run", "--rm", "--network", "none", peers.TAG) == told.wrote
    buildx.docker("rmi", peers.TAG)
