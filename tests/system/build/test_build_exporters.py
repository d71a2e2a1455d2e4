"""Exporters upon a real store: what is written, named, kept and let go; archives and files that clients get."""

from __future__ import annotations

import asyncio
import base64
import gzip
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from daemon.build.outcome import Made, Outcome
from daemon.images import manifests, targets
from storage.errors import Internal, InvalidArgument, NotFound, NotImplementedYet
from tests.system.build.export_rig import (
    AMD64,
    ARM64,
    MADE_AT,
    PROVENANCE,
    Client,
    Rig,
    document,
    one,
    provenance,
    several,
    started,
)

Check = Callable[[Rig], Awaitable[None]]


@pytest.fixture
def rigged(tmp_path: Path) -> Callable[[Check], None]:
    """Runs a check on a rig of its own."""

    def run(check: Check) -> None:
        async def all_of_it() -> None:
            async with started(tmp_path / "rig") as rig:
                await check(rig)

        asyncio.run(all_of_it())

    return run


async def single(rig: Rig, name: bytes = b"a") -> Outcome:
    return Outcome((one(await rig.layer({"a": name * 1000})),))


def test_plain_image(rigged: Callable[[Check], None]) -> None:
    async def check(rig: Rig) -> None:
        answer, shown = await rig.export(await single(rig), "moby", {"name": "x,y:2"})
        assert answer["image.name"] == "docker.io/library/x:latest,docker.io/library/y:2"
        image = rig.images.resolve("y:2")
        assert answer["containerimage.config.digest"] == image.id == rig.images.resolve("x").id
        descriptor = json.loads(base64.b64decode(answer["containerimage.descriptor"]))
        assert descriptor == {
            "mediaType": manifests.DOCKER_MANIFEST,
            "digest": answer["containerimage.digest"],
            "size": rig.store.content.size(answer["containerimage.digest"]),
            "platform": {"architecture": "amd64", "os": "linux"},
        }
        manifest = rig.blob(answer["containerimage.digest"])
        assert manifest["config"]["mediaType"] == manifests.DOCKER_CONFIG
        assert [layer["mediaType"] for layer in manifest["layers"]] == [manifests.DOCKER_LAYER]
        history = image.config["history"]
        assert [entry["created"] for entry in history] == ["2023-11-14T22:13:20.123Z"] * 2
        assert image.created == "2023-11-14T22:13:20.123Z"
        assert shown == [
            "exporting layers",
            f"exporting manifest {answer['containerimage.digest']}",
            f"exporting config {image.id}",
            "naming to docker.io/library/x:latest",
            "naming to docker.io/library/y:2",
        ]
        actions = [(event[1], event[3]["name"]) for event in rig.events]
        assert actions == [("create", image.id), ("tag", "x:latest"), ("tag", "y:2")]

    rigged(check)


def test_index_with_attestation(rigged: Callable[[Check], None]) -> None:
    async def check(rig: Rig) -> None:
        outcome = await single(rig)
        answer, shown = await rig.export(outcome, "moby", {"name": "x"}, said=[provenance(inline_only=True)])
        index = rig.blob(answer["containerimage.digest"])
        image, attestation = index["manifests"]
        assert index["mediaType"] == manifests.OCI_INDEX
        assert image["platform"] == {"architecture": "amd64", "os": "linux"}
        assert attestation["platform"] == {"architecture": "unknown", "os": "unknown"}
        assert attestation["annotations"] == {
            "vnd.docker.reference.digest": image["digest"],
            "vnd.docker.reference.type": "attestation-manifest",
        }
        manifest = rig.blob(attestation["digest"])
        assert manifest["layers"][0]["annotations"] == {"in-toto.io/predicate-type": PROVENANCE}
        statement = rig.blob(manifest["layers"][0]["digest"])
        algorithm, _, encoded = image["digest"].partition(":")
        assert statement["subject"] == [
            {"name": "pkg:docker/x@latest?platform=linux%2Famd64", "digest": {algorithm: encoded}}
        ]
        assert statement["predicate"] == {"builder": {"id": ""}}
        config = rig.blob(manifest["config"]["digest"])
        assert config["rootfs"]["diff_ids"] == [manifest["layers"][0]["digest"]]
        assert f"exporting attestation manifest {attestation['digest']}" in shown
        assert f"exporting manifest list {answer['containerimage.digest']}" in shown
        # the index's digest, and a part of the ID, are names of the image
        assert rig.images.resolve(answer["containerimage.digest"]).id == rig.images.resolve("x").id
        without, _ = await rig.export(outcome, "moby", {"name": "x"})
        assert rig.blob(without["containerimage.digest"])["mediaType"] == manifests.DOCKER_MANIFEST

    rigged(check)


def test_platforms_under_one_name(rigged: Callable[[Check], None]) -> None:
    """The name is this machine's image; the other's blobs and layers live and go with the name."""

    async def check(rig: Rig) -> None:
        outcome = await several(rig)
        answer, _ = await rig.export(outcome, "moby", {"name": "x"})
        index = rig.blob(answer["containerimage.digest"])
        assert [each["platform"]["architecture"] for each in index["manifests"]] == ["amd64", "arm64"]
        assert rig.images.resolve("x").config["architecture"] == "amd64"
        rows = await rig.images.list()
        assert [row["RepoTags"] for row in rows] == [["x:latest"]]
        await rig.forget_cache()
        other = rig.blob(index["manifests"][1]["digest"])
        held = [index["manifests"][1]["digest"], other["config"]["digest"]]
        held += [layer["digest"] for layer in other["layers"]]
        assert all(map(rig.store.content.has, held))
        assert all(map(rig.store.has_layer, rig.store.get(other["config"]["digest"]).chain_ids))  # type: ignore[union-attr]
        deleted = await rig.images.remove("x")
        assert len([entry for entry in deleted if "Deleted" in entry]) == 1 + 3
        await rig.store.settle()
        assert list(rig.store.content.walk()) == []
        assert rig.store.all() == [] and list(rig.store.snapshots.walk()) == []

    rigged(check)


def test_another_index_takes_the_name(rigged: Callable[[Check], None]) -> None:
    async def check(rig: Rig) -> None:
        outcome = await several(rig)
        first, _ = await rig.export(outcome, "moby", {"name": "x"}, said=[provenance(0)])
        await rig.images.tag("x", "kept")
        second, _ = await rig.export(outcome, "moby", {"name": "x"}, said=[provenance(1)])
        digests = [first["containerimage.digest"], second["containerimage.digest"]]
        await rig.store.collect()
        assert all(map(rig.store.content.has, digests))
        await rig.images.remove("kept")
        await rig.store.settle()
        assert [rig.store.content.has(digest) for digest in digests] == [False, True]
        await rig.export(await single(rig), "moby", {"name": "x"})
        await rig.store.settle()
        assert not rig.store.content.has(digests[1])
        assert len(rig.store.all()) == 2 == len(await rig.images.list())  # the old one is dangling

    rigged(check)


def test_records_survive_a_restart(rigged: Callable[[Check], None], tmp_path: Path) -> None:
    answers: list[dict[str, str]] = []

    async def before(rig: Rig) -> None:
        outcome = await several(rig)
        answers.append((await rig.export(outcome, "moby", {"name": "x"}, said=[provenance()]))[0])
        answers.append((await rig.export(await single(rig, b"z"), "moby", {}, said=[provenance()]))[0])

    async def after(rig: Rig) -> None:
        named, dangling = answers
        assert rig.store.bound("x").target.digest == named["containerimage.digest"]  # type: ignore[union-attr]
        assert len(await rig.images.list()) == 2 and len(rig.store.all()) == 3
        assert dangling["image.name"] == f"moby-dangling@{dangling['containerimage.digest']}"
        image = rig.images.resolve(dangling["containerimage.digest"])
        await rig.images.tag(image.id, "late:1")
        assert rig.store.bound("late:1").target.digest == dangling["containerimage.digest"]  # type: ignore[union-attr]
        report = await rig.images.prune({"dangling": ["false"]})
        assert len([entry for entry in report["ImagesDeleted"] if "Deleted" in entry]) == 2 + 3 + 1
        await rig.store.settle()
        assert list(rig.store.content.walk()) == []

    rigged(before)
    rigged(after)


@pytest.mark.parametrize(
    "point",
    [
        "exports.name",
        "records.write=3*off->kill",
        "records.written=3*off->kill",
        "content.commit=8*off->kill",
    ],
)
def test_killed_on_the_way(tmp_path: Path, point: str) -> None:
    """The name has all of the index or there is no name; what was half made is nobody's and goes."""
    rule = point if "=" in point else f"{point}=kill"
    command = [sys.executable, "-m", "tests.system.build.export_rig", str(tmp_path / "rig")]
    killed = subprocess.run(command, env={**os.environ, "PYD_FAILPOINTS": rule}, check=False)
    assert killed.returncode == -signal.SIGKILL

    async def look() -> None:
        async with started(tmp_path / "rig") as rig:
            bound = rig.store.bound("x") if rig.store.all() else None
            if bound is None:
                assert rig.store.all() == [] and list(rig.store.content.walk()) == []
            else:
                assert targets.missing(rig.store.content, bound.target) == []
                assert len(bound.images) == 2
            answer, _ = await rig.export(await several(rig), "moby", {"name": "x"}, said=[provenance()])
            assert rig.target("x") == answer["containerimage.digest"]
            await rig.forget_cache()
            await rig.images.remove("x")
            await rig.store.settle()
            assert list(rig.store.content.walk()) == [] and list(rig.store.snapshots.walk()) == []

    asyncio.run(look())


def test_same_epoch_same_digest(rigged: Callable[[Check], None]) -> None:
    async def check(rig: Rig) -> None:
        outcome = await several(rig)
        epoch = {"build-arg:SOURCE_DATE_EPOCH": "1600000000"}
        attrs = {"name": "x", "rewrite-timestamp": "true"}
        first, shown = await rig.export(outcome, "moby", attrs, frontend=epoch)
        assert "rewriting layers with source-date-epoch 1600000000 (2020-09-13 12:26:40 +0000 UTC)" in shown
        image = rig.images.resolve("x")
        assert image.created == "2020-09-13T12:26:40Z"
        assert {entry["created"] for entry in image.config["history"]} == {"2020-09-13T12:26:40Z"}
        layer = rig.store.blob(image.diff_ids[0])
        assert layer is not None and image.diff_ids[0] not in outcome.made[0].result.diff_ids
        data = gzip.decompress(rig.store.content.read(layer.digest))
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            assert {entry.mtime for entry in tar} == {1600000000}
        for entry in rig.bench.cache.entries.values():
            object.__setattr__(entry, "created", MADE_AT + 5 * 10**9)
        second, _ = await rig.export(outcome, "moby", attrs, frontend=epoch)
        assert first == second
        third, _ = await rig.export(outcome, "moby", attrs | {"source-date-epoch": "1500000000"})
        assert third["containerimage.digest"] != first["containerimage.digest"]

    rigged(check)


@pytest.mark.parametrize(
    ("attrs", "kind"),
    [
        ({"compression": "zstd", "oci-mediatypes": "true"}, "application/vnd.oci.image.layer.v1.tar+zstd"),
        ({"compression": "uncompressed"}, "application/vnd.docker.image.rootfs.diff.tar"),
        (
            {"compression": "gzip", "compression-level": "9", "oci-mediatypes": ""},
            f"{manifests.OCI_LAYER}+gzip",
        ),
    ],
)
def test_compression(rigged: Callable[[Check], None], attrs: dict[str, str], kind: str) -> None:
    async def check(rig: Rig) -> None:
        outcome = await single(rig)
        answer, _ = await rig.export(outcome, "moby", {"name": "x", **attrs})
        (layer,) = rig.blob(answer["containerimage.digest"])["layers"]
        assert layer["mediaType"] == kind
        plain = rig.store.blob(outcome.made[0].result.diff_ids[0])
        assert plain is not None and layer["digest"] != plain.digest
        assert rig.images.resolve("x").diff_ids == outcome.made[0].result.diff_ids
        rig.bench.cache.entries.clear()  # the layers may as well be a base image's now
        again, _ = await rig.export(outcome, "moby", {"name": "x", **attrs, "force-compression": "true"})
        forced = rig.blob(again["containerimage.digest"])["layers"][0]["mediaType"]
        assert forced == kind

    rigged(check)


@pytest.mark.parametrize(
    ("attrs", "kind", "text"),
    [
        ({"compression": "estargz"}, NotImplementedYet, "estargz"),
        ({"compression": "lzma"}, InvalidArgument, "unsupported compression type lzma"),
        ({"push": "maybe"}, InvalidArgument, "non-bool value specified for push"),
        ({"rewrite-timestamp": ""}, InvalidArgument, "non-bool value specified for rewrite-timestamp"),
        ({"compression-level": "x"}, InvalidArgument, "non-integer value x specified"),
        ({"name": "X"}, InvalidArgument, "must be lowercase"),
        ({"name": f"x@sha256:{'a' * 64}"}, InvalidArgument, "build tag cannot contain a digest"),
        ({"source-date-epoch": "x"}, InvalidArgument, "invalid source-date-epoch"),
        ({"annotation-index.a": "b"}, InvalidArgument, "index annotations not supported"),
        ({"annotation-other.a": "b"}, InvalidArgument, "unrecognized annotation type other"),
        ({"annotation[linux/s390x].a": "b"}, InvalidArgument, "no platform linux/s390x found"),
    ],
)
def test_refused(
    rigged: Callable[[Check], None], attrs: dict[str, str], kind: type[Exception], text: str
) -> None:
    async def check(rig: Rig) -> None:
        with pytest.raises(kind, match=text):
            await rig.export(await single(rig), "moby", attrs)
        assert rig.store.all() == []

    rigged(check)


def test_annotations(rigged: Callable[[Check], None]) -> None:
    async def check(rig: Rig) -> None:
        attrs = {
            "name": "x",
            "annotation.a": "all",
            "annotation-manifest[linux/arm64].a": "arm",
            "annotation-manifest-descriptor.d": "desc",
            "annotation-index.i": "idx",
            "annotation-index-descriptor.n": "entry",
            "buildinfo": "false",
        }
        answer, _ = await rig.export(await several(rig), "image", attrs)
        index = rig.blob(answer["containerimage.digest"])
        assert index["annotations"] == {"i": "idx"}
        assert json.loads(base64.b64decode(answer["containerimage.descriptor"]))["annotations"] == {
            "n": "entry"
        }
        said = [(each["annotations"], rig.blob(each["digest"])["annotations"]) for each in index["manifests"]]
        assert said == [({"d": "desc"}, {"a": "all"}), ({"d": "desc"}, {"a": "arm"})]

    rigged(check)


def test_names_of_other_kinds(rigged: Callable[[Check], None]) -> None:
    async def check(rig: Rig) -> None:
        outcome = await single(rig)
        answer, _ = await rig.export(outcome, "image", {"name": "x", "name-canonical": "true"})
        digest = answer["containerimage.digest"]
        assert rig.images.resolve(f"x@{digest}").references == ("x:latest",)
        answer, _ = await rig.export(outcome, "image", {"dangling-name-prefix": "loose"})
        assert answer["image.name"] == f"loose@{digest}"
        assert rig.images.resolve(f"loose@{digest}")
        before = {image.id for image in rig.store.all()}
        _, shown = await rig.export(await single(rig, b"q"), "image", {"name": "z", "store": "false"})
        assert {image.id for image in rig.store.all()} == before
        assert not [name for name in shown if name.startswith("naming")]

    rigged(check)


def test_no_configuration(rigged: Callable[[Check], None]) -> None:
    """What no front end described: BuildKit's default, with what the layers are known for as history."""

    async def check(rig: Rig) -> None:
        outcome = Outcome((Made(AMD64, await rig.layer({"a": b"a"})),))
        await rig.export(outcome, "moby", {"name": "x"}, inline_cache=[b'{"layers":[]}'])
        config = rig.images.resolve("x").config
        assert config["config"] == {
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "WorkingDir": "/",
        }
        assert config["history"] == [
            {
                "created": "2023-11-14T22:13:20.123Z",
                "created_by": "COPY",
                "comment": "buildkit.exporter.image.v0",
            }
        ]
        assert base64.b64decode(config["moby.buildkit.cache.v0"]) == b'{"layers":[]}'
        assert list(config) == sorted(config)

    rigged(check)


def test_archives(rigged: Callable[[Check], None], tmp_path: Path) -> None:
    async def check(rig: Rig) -> None:
        outcome, client = await several(rig), Client(tmp_path / "client")
        said = [provenance(0, inline_only=True), provenance(1)]
        answer, shown = await rig.export(outcome, "oci", {"name": "x:1"}, client=client, said=said)
        assert client.metadata == answer and shown[-1] == "sending tarball"
        members = _members(client.archive)
        index = json.loads(members["index.json"])
        (entry,) = index["manifests"]
        assert entry["annotations"]["io.containerd.image.name"] == "docker.io/library/x:1"
        assert entry["digest"] == answer["containerimage.digest"]
        inner = json.loads(members["blobs/" + entry["digest"].replace(":", "/")])
        assert len(inner["manifests"]) == 3  # what nobody asked for stays out of archives
        for part in inner["manifests"]:
            manifest = json.loads(members["blobs/" + part["digest"].replace(":", "/")])
            for blob in (manifest["config"], *manifest["layers"]):
                assert len(members["blobs/" + blob["digest"].replace(":", "/")]) == blob["size"]
        assert rig.store.all() == []
        await rig.export(outcome, "oci", {"name": "x:1", "tar": "false"}, client=client, said=said)
        assert {f"blobs/{digest.replace(':', '/')}" for digest in client.blobs} == {
            name for name in members if name.startswith("blobs/sha256/")
        }
        with pytest.raises(InvalidArgument, match="manifest lists"):
            await rig.export(outcome, "docker", {}, client=client)
        with pytest.raises(InvalidArgument, match="session"):
            await rig.export(outcome, "oci", {})

    rigged(check)


def test_files(rigged: Callable[[Check], None], tmp_path: Path) -> None:
    async def check(rig: Rig) -> None:
        outcome = await several(rig)
        said = [provenance(0), provenance(1), provenance(1, inline_only=True, path="other.json")]
        client = Client(tmp_path / "split")
        answer, shown = await rig.export(outcome, "local", {}, client=client, said=said)
        assert answer == {} and shown == ["copying files linux/amd64", "copying files linux/arm64"]
        assert (client.directory / "linux_arm64/b").read_bytes() == b"arm"
        assert sorted(path.name for path in (client.directory / "linux_arm64").iterdir()) == [
            "a",
            "b",
            "provenance.json",
        ]
        statement = json.loads((client.directory / "linux_arm64/provenance.json").read_text())
        assert [subject["name"] for subject in statement["subject"]] == ["a", "b"]
        with pytest.raises(InvalidArgument, match="cannot overwrite a from"):
            await rig.export(outcome, "local", {"platform-split": "false"}, client=client)
        whole = Client(tmp_path / "whole")
        disjoint = Outcome(
            (one(await rig.layer({"p": b"1"})), one(await rig.layer({"q": b"2"}), ARM64)), True
        )
        attrs = {"platform-split": "false", "attestation-prefix": "att-"}
        await rig.export(disjoint, "local", attrs, client=whole, said=said)
        assert sorted(path.name for path in whole.directory.iterdir()) == [
            "att-provenance.linux_amd64.json",
            "att-provenance.linux_arm64.json",
            "p",
            "q",
        ]
        tar = Client(tmp_path / "tar")
        await rig.export(outcome, "tar", {"source-date-epoch": "1600000000"}, client=tar, said=said[:1])
        with tarfile.open(tar.archive) as found:
            assert {entry.name for entry in found} == {
                "linux_amd64", "linux_amd64/a", "linux_amd64/b", "linux_amd64/provenance.json",
                "linux_arm64", "linux_arm64/a", "linux_arm64/b",
            }  # fmt: skip
            assert {entry.mtime for entry in found} == {1600000000}

    rigged(check)


def test_save_and_load_keep_an_index(tmp_path: Path) -> None:
    async def there_and_back() -> None:
        async with started(tmp_path / "one") as rig:
            plain = await rig.export(await single(rig), "moby", {"name": "plain"})
            answer, _ = await rig.export(await several(rig), "moby", {"name": "x"}, said=[provenance(1)])
            await rig.images.tag("x", "y:2")
            whole = await rig.save(tmp_path / "whole.tar", "x", "y:2", "plain")
            part = await rig.save(tmp_path / "part.tar", "x", platform="linux/arm64")
        async with started(tmp_path / "two") as rig:
            lines = await rig.load(whole)
            said = [line["stream"] for line in lines if "stream" in line]
            assert said == [f"Loaded image: {name}\n" for name in ("x:latest", "y:2", "plain:latest")]
            digest = answer["containerimage.digest"]
            assert [rig.target(name) for name in ("x", "y:2")] == [digest, digest]
            assert rig.target("plain") == plain[0]["containerimage.digest"]
            assert len(rig.store.all()) == 3 and len(await rig.images.list()) == 2
            again = await rig.save(tmp_path / "again.tar", "x", "y:2", "plain")
            assert _members(again) == _members(whole)
            await rig.images.remove("x")
            await rig.images.remove("y:2")
            await rig.images.remove("plain")
            await rig.store.settle()
            assert list(rig.store.content.walk()) == []
            await rig.load(part)
            image = rig.images.resolve("x")
            assert image.config["architecture"] == "arm64"
            assert rig.target("x") != digest
            await rig.images.remove("x")
            await rig.load(whole, platform="linux/arm64")
            assert rig.store.bound("x") is None

    asyncio.run(there_and_back())


def test_pushed_as_it_is(rigged: Callable[[Check], None], registry: str) -> None:
    """By the exporter, by docker push, by digest; what the registry has already is not sent again."""

    async def check(rig: Rig) -> None:
        name = f"{registry}/exporters/app"
        outcome = await several(rig)
        attrs = {"name": f"{name}:1,{name}:2", "push": "true"}
        answer, shown = await rig.export(outcome, "moby", attrs, said=[provenance(0)])
        digest = answer["containerimage.digest"]
        pushed = [each for each in shown if each.startswith("push")]
        assert pushed == ["pushing layers", *(f"pushing manifest for {name}:{tag}@{digest}" for tag in "12")]
        assert rig.images.resolve(f"{name}:1").digests == (f"{name}@{digest}",)
        for reference in (f"{name}:1", f"{name}:2", f"{name}@{digest}"):
            raw = await _output("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{reference}")
            assert raw == rig.store.content.read(digest)
        await rig.images.tag(f"{name}:1", f"{registry}/exporters/copy", "3")
        lines = [line async for line in rig.images.push(f"{registry}/exporters/copy", "3")]
        statuses = [line.get("status", "") for line in lines]
        assert any(text.startswith("Mounted from exporters/app") for text in statuses), statuses
        assert lines[-1]["aux"]["Digest"] == digest
        assert f"{registry}/exporters/copy@{digest}" in rig.images.resolve(f"{name}:1").digests
        lines = [line async for line in rig.images.push(f"{registry}/exporters/copy", "3")]
        assert not [line for line in lines if line.get("status") in ("Pushed", "Pushing")]
        attrs = {
            "name": f"{registry}/exporters/loose",
            "push": "true",
            "push-by-digest": "true",
            "store": "no",
        }
        with pytest.raises(InvalidArgument, match="non-bool"):
            await rig.export(outcome, "image", attrs)
        loose, _ = await rig.export(outcome, "image", attrs | {"store": "false"})
        found = f"docker://{registry}/exporters/loose@{loose['containerimage.digest']}"
        assert await _output("skopeo", "inspect", "--raw", "--tls-verify=false", found)
        before = {image.id for image in rig.store.all()}
        async for line in rig.images.pull(name, "1"):
            assert "error" not in line
        assert {image.id for image in rig.store.all()} == before and rig.target(f"{name}:1") == digest

    rigged(check)


def test_what_is_shown_of_an_index(rigged: Callable[[Check], None]) -> None:
    async def check(rig: Rig) -> None:
        answer, _ = await rig.export(await several(rig), "moby", {"name": "x"}, said=[provenance(1)])
        shown = await rig.images.inspect("x", manifests=True)
        assert shown["Descriptor"]["digest"] == answer["containerimage.digest"]
        kinds = [(each["Kind"], each["Available"]) for each in shown["Manifests"]]
        assert kinds == [("image", True), ("image", True), ("attestation", True)]
        first, second, third = shown["Manifests"]
        assert second["ImageData"] == {
            "Platform": {"architecture": "arm64", "os": "linux"},
            "Size": {"Unpacked": 7},
            "Containers": None,
        }
        assert second["Size"]["Total"] == second["Size"]["Content"] + 7
        assert third["AttestationData"] == {"For": second["ID"]}
        (row,) = await rig.images.list(manifests=True)
        assert row["Manifests"] == shown["Manifests"] and row["Descriptor"] == shown["Descriptor"]
        assert "Manifests" not in (await rig.images.list())[0]
        arm = '{"os":"linux","architecture":"arm64"}'
        other = await rig.images.inspect("x", platform=arm)
        assert (other["Architecture"], other["RepoTags"]) == ("arm64", ["x:latest"])
        assert rig.images.resolve("x", ARM64).id == other["Id"] != shown["Id"]
        assert len(rig.images.history("x", arm)) == 3
        with pytest.raises(NotFound, match="does not provide the specified platform"):
            rig.images.history("x", "linux/s390x")
        usage = await rig.images.disk_usage()
        assert usage["LayersSize"] == 4 + 3 + 3 and len(usage["Images"]) == 1
        assert usage["Images"][0]["SharedSize"] == 4
        first_chain = rig.store.get(other["Id"]).chain_ids[0]  # type: ignore[union-attr]
        assert first["ImageData"]["Size"]["Unpacked"] == 7 and rig.store.layer_size(first_chain) == 4

    rigged(check)


def test_one_platform_is_pushed(rigged: Callable[[Check], None], registry: str) -> None:
    async def check(rig: Rig) -> None:
        name = f"{registry}/exporters/part"
        answer, _ = await rig.export(await several(rig), "moby", {"name": f"{name}:1"})
        lines = [line async for line in rig.images.push(name, "1", platform="linux/arm64")]
        part = rig.blob(answer["containerimage.digest"])["manifests"][1]["digest"]
        assert lines[-1]["aux"]["Digest"] == part
        raw = await _output("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{name}:1")
        assert raw == rig.store.content.read(part)
        assert rig.images.resolve(f"{name}:1").digests == ()
        lines = [line async for line in rig.images.push(name, "1", platform="linux/s390x")]
        assert "linux/s390x" in lines[-1]["error"]

    rigged(check)


def test_refused_by_a_registry(rigged: Callable[[Check], None]) -> None:
    async def check(rig: Rig) -> None:
        attrs = {"name": "127.0.0.1:1/x", "push": "true"}
        with pytest.raises(Internal, match=r"failed to push 127.0.0.1:1/x:latest: .*connection refused"):
            await rig.export(await single(rig), "moby", attrs)
        assert rig.images.resolve("127.0.0.1:1/x").references == ("127.0.0.1:1/x:latest",)

    rigged(check)


async def _output(*command: str) -> bytes:
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out


def test_nothing_and_unknown(rigged: Callable[[Check], None]) -> None:
    async def check(rig: Rig) -> None:
        assert await rig.export(await single(rig), "cacheonly", {}) == ({}, [])
        with pytest.raises(NotFound, match='exporter "other" could not be found'):
            await rig.export(await single(rig), "other", {})
        scratch = Outcome(
            (Made(AMD64, type((await single(rig)).made[0].result)(), document() | {"history": []}),)
        )
        await rig.export(scratch, "moby", {"name": "empty"})
        assert rig.images.resolve("empty").diff_ids == ()

    rigged(check)


def _members(archive: Path) -> dict[str, bytes]:
    found: dict[str, Any] = {}
    with tarfile.open(archive) as tar:
        for entry in tar:
            file = tar.extractfile(entry)
            if file is not None:
                found[entry.name] = file.read()
    return found
