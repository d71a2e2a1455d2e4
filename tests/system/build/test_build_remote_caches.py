"""--cache-to and --cache-from between two machines: every step taken again, nothing run, wrong caches harmless."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.build.plugins import Buildx
from tests.system.conftest import running_host
from tests.system.host import Host
from tests.system.images_registry import docker_registry, htpasswd

DOCKERFILE = """FROM busybox AS one
WORKDIR /w
COPY f /w/f
RUN echo {name} > n; cat /proc/sys/kernel/random/uuid > t
FROM busybox
COPY --from=one /w/t /t
RUN cat /proc/sys/kernel/random/uuid > /u
COPY --link f /g
"""


@pytest.fixture(scope="module")
def second(busybox_tar: Path) -> Iterator[Host]:
    """Another machine: its own images, its own cache."""
    with running_host(busybox_tar) as running:
        yield running


@pytest.fixture
def other(second: Host, tmp_path_factory: pytest.TempPathFactory) -> Buildx:

    return Buildx(second, tmp_path_factory.mktemp("other"))


def files(name: str = "") -> dict[str, str]:
    name = name or os.urandom(4).hex()
    return {"Dockerfile": DOCKERFILE.format(name=name), "f": name}


def ran(said: str) -> list[str]:
    """Names of the steps of the Dockerfile that were not cached."""
    names = dict(re.findall(r"^#(\d+) (\[(?:one|stage-1) \d/\d\] (?!FROM).*)$", said, re.MULTILINE))
    cached = set(re.findall(r"^#(\d+) CACHED$", said, re.MULTILINE))
    assert names, said
    return [name for number, name in names.items() if number not in cached]


def same(buildx: Buildx, other: Buildx, image: str) -> None:
    """The second machine's image has the first one's layers, and works."""
    assert buildx.host.inspect(image)["RootFS"] == other.host.inspect(image)["RootFS"]
    assert buildx.run(image, "cat", "/t", "/u", "/g") == other.run(image, "cat", "/t", "/u", "/g")


@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_registry_cache(buildx: Buildx, other: Buildx, registry: str, mode: str) -> None:
    made, ref = files(), f"{registry}/cache-{mode}:1"
    said = buildx.build(made, "-t", "shared:1", "--cache-to", f"type=registry,ref={ref},mode={mode}")
    assert "exporting cache to registry" in said and len(ran(said)) >= 5
    said = other.build(made, "-t", "shared:1", "--cache-from", f"type=registry,ref={ref}")
    assert f"importing cache manifest from {ref}" in said
    assert ran(said) == []
    same(buildx, other, "shared:1")
    changed = {**made, "Dockerfile": made["Dockerfile"] + "COPY --from=one /w/n /n\n"}
    said = other.build(changed, "-t", "shared:2", "--cache-from", ref)
    assert other.run("shared:2", "cat", "/n").strip() == made["f"]
    if mode == "max":
        assert [name for name in ran(said) if "RUN" in name] == [], "every step's layers are there"


def test_a_local_cache(buildx: Buildx, other: Buildx, tmp_path: Path) -> None:
    made, place = files(), tmp_path / "cache"
    buildx.build(made, "-t", "local:1", "--cache-to", f"type=local,dest={place},mode=max")
    index = json.loads((place / "index.json").read_text())
    assert index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"] == "latest"
    said = other.build(made, "-t", "local:1", "--cache-from", f"type=local,src={place}")
    assert (
        ran(said) == [] and "inferred cache manifest type: application/vnd.oci.image.manifest.v1+json" in said
    )
    blobs = other.host.data_root / "content/blobs/sha256"
    came = [
        layer for layer in Directory(place).layers() if (blobs / layer["digest"].partition(":")[2]).exists()
    ]
    assert len(Directory(place).layers()) - len(came) >= 2, "the first stage's layers are of no use here"
    same(buildx, other, "local:1")
    assert len(ran(other.build(made, "-t", "local:1"))) >= 5, "what a cache claims is nobody else's"


def test_an_inline_cache(buildx: Buildx, other: Buildx, registry: str) -> None:
    made, ref = files(), f"{registry}/inline:1"
    buildx.build(made, "-t", ref, "--push", "--cache-to", "type=inline")
    said = other.build(made, "-t", ref, "--cache-from", ref, "--load")
    assert ran(said) == []
    buildx.docker("pull", "-q", ref)
    same(buildx, other, ref)


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("oci-mediatypes=false", "application/vnd.docker.distribution.manifest.list.v2+json"),
        ("image-manifest=false", "application/vnd.oci.image.index.v1+json"),
        ("compression=zstd,force-compression=true", "application/vnd.oci.image.layer.v1.tar+zstd"),
    ],
)
def test_kinds_of_documents(buildx: Buildx, other: Buildx, tmp_path: Path, options: str, words: str) -> None:
    made, place = files(), tmp_path / "cache"
    buildx.build(made, "--cache-to", f"type=local,dest={place},mode=max,{options}")
    cache = Directory(place)
    assert words in cache.blob(cache.index["manifests"][0]["digest"]).read_text()
    assert ran(other.build(made, "--cache-from", f"type=local,src={place}")) == []


def test_the_clients_credentials(buildx: Buildx, tmp_path: Path) -> None:
    made = files()
    with docker_registry(tmp_path / "registry", htpasswd("me", "secret")) as address:
        cache = f"type=registry,ref={address}/c:1"
        result = buildx.attempt(made, "--cache-to", cache)
        assert result.returncode != 0 and b"no basic auth credentials" in result.stderr, result.stderr
        buildx.docker("login", "-u", "me", "-p", "secret", address)
        buildx.build(made, "--cache-to", f"{cache},mode=max")
        buildx.docker("buildx", "prune", "-af")
        assert ran(buildx.build(made, "--cache-from", cache)) == []


@pytest.mark.nightly
def test_a_cache_is_handed_on(buildx: Buildx, other: Buildx, registry: str) -> None:
    """--cache-from and --cache-to of one build: what was imported is exported again."""
    made, first, second = files(), f"{registry}/handed:1", f"{registry}/handed:2"
    buildx.build(made, "--cache-to", f"type=registry,ref={first},mode=max")
    other.build(made, "--cache-from", first, "--cache-to", f"type=registry,ref={second},mode=max")
    assert other.host.curl("POST", "/build/prune?all=1")[0] == 200
    assert ran(other.build(made, "--cache-from", second)) == []


def test_caches_that_can_not_be_had(buildx: Buildx, registry: str, tmp_path: Path) -> None:
    made = files()
    said = buildx.build(made, "--cache-from", f"{registry}/absent:1")
    assert "importing cache manifest from" in said and "ERROR" in said
    assert len(ran(said)) >= 5
    result = buildx.attempt(made, "--cache-to", "type=azblob,name=n,account_url=http://localhost")
    assert result.returncode != 0 and b"unknown cache exporter" in result.stderr
    bad = "type=registry,ref=127.0.0.1:1/x"
    assert buildx.attempt(made, "--cache-to", bad).returncode != 0
    assert buildx.attempt(made, "--cache-to", f"{bad},ignore-error=true").returncode == 0


class Directory:
    """A local cache, to be tampered with."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.index = json.loads((place / "index.json").read_text())
        self.manifest = json.loads(self.blob(self.index["manifests"][0]["digest"]).read_bytes())
        head = self.manifest.get("config") or self.manifest["manifests"][-1]
        self.config = json.loads(self.blob(head["digest"]).read_bytes())

    def blob(self, digest: str) -> Path:
        return self.place / "blobs/sha256" / digest.partition(":")[2]

    def layers(self) -> list[dict[str, Any]]:
        return list(self.manifest["layers"])

    @property
    def own(self) -> dict[str, Any]:
        return next(record["pyd"] for record in self.config["records"] if "pyd" in record)

    def write(self) -> None:
        """Documents with their right digests, whatever they say."""
        self.manifest["config"] |= self._store(self.config)
        self.index["manifests"][0] |= self._store(self.manifest)
        (self.place / "index.json").write_text(json.dumps(self.index))

    def _store(self, document: Any) -> dict[str, Any]:
        body = json.dumps(document).encode()
        digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
        self.blob(digest).write_bytes(body)
        return {"digest": digest, "size": len(body)}


def damaged(cache: Directory) -> None:
    for layer in cache.layers():
        path = cache.blob(layer["digest"])
        path.write_bytes(path.read_bytes()[:-9] + b"012345678")


def mixed_up(cache: Directory) -> None:
    """Right blobs, wrong diff IDs."""
    names = [layer["annotations"] for layer in cache.layers()]
    for layer, name in zip(cache.layers(), names[1:] + names[:1], strict=True):
        layer["annotations"] = name
    cache.write()


def lying(cache: Directory) -> None:
    """Every key gives the last one's tree, and whatever is read was read before."""
    last = cache.own["steps"][-1][1]
    cache.own["steps"] = [[key, last, created] for key, _, created in cache.own["steps"]]
    cache.own["reads"] = [[*read[:-1], cache.own["steps"][0][0]] for read in cache.own["reads"]]
    cache.write()


@pytest.mark.parametrize("tamper", [damaged, pytest.param(mixed_up, marks=pytest.mark.nightly), lying])
def test_wrong_caches_do_no_lasting_harm(
    buildx: Buildx, other: Buildx, tmp_path: Path, tamper: Callable[[Directory], None]
) -> None:
    made, place = files(), tmp_path / "cache"
    buildx.build(made, "--cache-to", f"type=local,dest={place},mode=max")
    tamper(Directory(place))
    result = other.attempt(made, "-t", "wrong:1", "--cache-from", f"type=local,src={place}")
    if tamper is not lying:
        assert result.returncode == 0, result.stderr.decode()
        assert other.run("wrong:1", "cat", "/g") == made["f"]
    other.build(made, "-t", "wrong:2")
    assert other.run("wrong:2", "cat", "/g") == made["f"], (
        "what another build was told is nobody else's cache"
    )
    assert other.run("wrong:2", "sh", "-c", "test -s /t -a -s /u && echo whole").strip() == "whole"
