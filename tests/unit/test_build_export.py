"""What exporters make of attributes, configurations and statements, without a store."""

from __future__ import annotations

import json
from typing import Any

import pytest

from daemon.build.export import options
from daemon.build.export.annotations import INDEX, MANIFEST, Annotations
from daemon.build.export.config import LayerMade, encoded, finished, ordered
from daemon.build.export.documents import attestation_manifest, indented, reindented
from daemon.build.export.statements import package_url, statement
from daemon.build.outcome import Attestation
from daemon.images import reference
from daemon.images.platforms import Platform
from storage.errors import InvalidArgument, NotFound

SECOND = 10**9
BASE = {"created": "2020-01-01T00:00:00Z", "created_by": "base", "comment": "buildkit.dockerfile.v0"}


def _document(*history: dict[str, Any]) -> dict[str, Any]:
    return {"architecture": "amd64", "os": "linux", "config": {}, "history": list(history)}


def _new(text: str, **more: Any) -> dict[str, Any]:
    return {"created_by": text, "comment": "buildkit.dockerfile.v0", **more}


def test_times_of_what_only_configures() -> None:
    """Before the first new layer: its time. Behind it: that of the layer before."""
    document = _document(BASE, _new("ENV", empty_layer=True), _new("RUN"), _new("CMD", empty_layer=True))
    layers = [LayerMade("sha256:b", 1), LayerMade("sha256:n", 1_600_000_000 * SECOND)]
    found = finished(document, layers, None)
    assert [entry["created"] for entry in found["history"]] == [
        "2020-01-01T00:00:00Z",
        *["2020-09-13T12:26:40Z"] * 3,
    ]
    assert found["created"] == "2020-09-13T12:26:40Z"
    assert found["rootfs"] == {"type": "layers", "diff_ids": ["sha256:b", "sha256:n"]}
    assert list(found["history"][1]) == ["created", "created_by", "comment", "empty_layer"]


def test_an_epoch_is_the_latest_time_of_what_is_new() -> None:
    document = _document(BASE, _new("RUN 1"), _new("RUN 2"))
    layers = [LayerMade("b"), LayerMade("1", 100 * SECOND), LayerMade("2", 1_600_000_000 * SECOND)]
    found = finished(document, layers, 1000 * SECOND)
    assert [entry["created"] for entry in found["history"]] == [
        "2020-01-01T00:00:00Z",  # the base image's stays
        "1970-01-01T00:01:40Z",
        "1970-01-01T00:16:40Z",
    ]
    assert found["created"] == "1970-01-01T00:16:40Z"
    assert finished(document | {"created": "2021-01-01T00:00:00Z"}, layers, 1000 * SECOND)["created"] == (
        "1970-01-01T00:16:40Z"
    )


def test_layers_and_history_that_differ_in_number() -> None:
    found = finished(_document(_new("one"), _new("two")), [LayerMade("1", SECOND)], None)
    assert [entry.get("empty_layer") for entry in found["history"]] == [None, True]
    found = finished(_document(_new("one")), [LayerMade("1", SECOND), LayerMade("2", SECOND, "more")], None)
    assert found["history"][1] == {
        "created": "1970-01-01T00:00:01Z",
        "created_by": "more",
        "comment": "buildkit.exporter.image.v0",
    }
    with pytest.raises(InvalidArgument, match="missing os or architecture"):
        finished({"config": {}}, [], None)


def test_members_come_as_go_writes_them() -> None:
    document = {
        "os": "linux",
        "config": {"Cmd": ["x"], "Odd": 1, "Env": ["a<b"], "Labels": {"b": "", "a": ""}},
    }
    assert encoded(ordered(document), b"{}") == (
        b'{"config":{"Env":["a\\u003cb"],"Cmd":["x"],"Labels":{"a":"","b":""},"Odd":1},"history":[],'
        b'"moby.buildkit.cache.v0":"e30=","os":"linux"}'
    )
    assert indented({"a": "é&", "b": []}) == '{\n  "a": "é\\u0026",\n  "b": []\n}'.encode()
    assert reindented(b'{"a":1}') == b'{\n  "a": 1\n}'


def test_statements() -> None:
    said = Attestation(0, "type", b'{"z": 1,\n "a": [2.50]}', subjects=(("s", {"sha256": "00"}),))
    assert statement(said, [("ignored", {})]) == (
        b'{"_type":"https://in-toto.io/Statement/v0.1","predicateType":"type",'
        b'"subject":[{"name":"s","digest":{"sha256":"00"}}],"predicate":{"z":1,"a":[2.5]}}'
    )
    for name, url in (
        ("busybox", "pkg:docker/busybox@latest?platform=linux%2Farm%2Fv7"),
        ("a/b/c:1", "pkg:docker/a/b/c@1?platform=linux%2Farm%2Fv7"),
        ("host:5000/a:2", "pkg:docker/host:5000/a@2?platform=linux%2Farm%2Fv7"),
    ):
        parsed = reference.parse(name).with_default_tag()
        assert package_url(parsed, Platform("linux", "arm", "v7")) == url


def test_attestations_as_artifacts() -> None:
    subject = {"mediaType": "m", "digest": "sha256:d", "size": 3, "annotations": {"x": "y"}}
    body, config, _ = attestation_manifest([("type", b"{}")], subject, artifact=True)
    document = json.loads(body)
    assert config == b"{}" and document["config"]["data"] == "e30="
    assert document["artifactType"] == "application/vnd.docker.attestation.manifest.v1+json"
    assert document["subject"] == {"mediaType": "m", "digest": "sha256:d", "size": 3}


def test_annotations_by_level_and_platform() -> None:
    found = Annotations.of(
        {
            "annotation.a": "1",
            "annotation-manifest[linux/arm/v7].a": "2",
            "annotation-index[linux/amd64].i": "3",
            "annotations.a": "none",
            "name": "x",
        }
    )
    assert found.at(MANIFEST, "linux/amd64") == {"a": "1"}
    assert found.at(MANIFEST, "linux/arm/v7") == {"a": "2"}
    assert found.at(INDEX) == {"i": "3"}
    assert found.need_oci and not Annotations.of({"annotation.a": "1"}).need_oci
    with pytest.raises(InvalidArgument):
        Annotations.of({"annotation[nowhere/at/all/x].a": "1"})


def test_attributes_of_images() -> None:
    plain = options.parse("moby", {}, None)
    assert (plain.dangling_prefix, plain.store, plain.push, plain.oci) == (
        "moby-dangling",
        True,
        False,
        False,
    )
    assert options.parse("image", {}, None).dangling_prefix == ""
    assert options.parse("oci", {}, None).oci and not options.parse("oci", {}, None).inline_attestations
    assert options.parse("docker", {"oci-artifact": "true"}, None).oci
    asked = options.parse("image", {"push": "", "source-date-epoch": "7", "anything": "else"}, "9")
    assert asked.push and asked.epoch == 7 * SECOND
    assert options.parse("image", {"source-date-epoch": ""}, "9").epoch is None
    assert options.parse("image", {}, "9").epoch == 9 * SECOND
    names = options.names(options.parse("image", {"name": "a,b:1,a:latest,"}, None))
    assert [str(name) for name in names] == ["docker.io/library/a:latest", "docker.io/library/b:1"]
    star = options.parse("image", {"name": "*"}, None)
    assert [name.familiar for name in options.names(star, "z")] == ["z:latest"]
    digested = options.parse("image", {"name": "a", "push-by-digest": "true"}, None)
    assert [str(name) for name in options.names(digested)] == ["docker.io/library/a"]
    with pytest.raises(InvalidArgument, match="invalid compression-level 10 for gzip"):
        options.parse("image", {"compression-level": "10"}, None)
    for given, level in (("22", 22), ("99", 22), ("-99", -7)):
        made = options.parse("image", {"compression": "zstd", "compression-level": given}, None)
        assert made.compression.level == level


@pytest.mark.parametrize(
    ("kind", "attrs", "text"),
    [
        ("image", {"push": "x"}, 'non-bool value specified for push: strconv.ParseBool: parsing "x"'),
        ("docker", {"push": "x", "store": "x", "registry.insecure": "x", "name-canonical": "x"}, ""),
        ("oci", {"tar": "x"}, "non-bool value specified for tar"),
        ("image", {"tar": "x", "unpack": "x"}, ""),
        ("oci", {"force-compression": "x"}, "non-bool value x specified for force-compression"),
        ("image", {"prefer-nondist-layers": "x"}, "non-bool value specified for prefer-nondist-layers"),
        ("image", {"prefer-nondist-layers": "true"}, ""),
        ("image", {"compression": "nydus"}, "unsupported compression type nydus"),
        (
            "local",
            {"platform-split": "x"},
            'non-bool value for platform-split: x: strconv.ParseBool: parsing "x"',
        ),
        ("local", {"mode": "delete", "anything": "else"}, ""),
    ],
)
def test_attributes_that_are_refused_and_those_that_nobody_looks_at(
    kind: str, attrs: dict[str, str], text: str
) -> None:
    """As dockerd 28.5.2 has it, with containerd's store."""
    from daemon.build.export import check
    from daemon.build.outcome import ExporterRequest

    if not text:
        check([ExporterRequest(0, kind, attrs)])
        return
    with pytest.raises(InvalidArgument) as error:
        check([ExporterRequest(0, kind, attrs)])
    assert str(error.value).startswith(text)


def test_exporters_that_there_are() -> None:
    from daemon.build.export import check
    from daemon.build.outcome import ExporterRequest

    kinds = ("image", "moby", "oci", "docker", "local", "tar", "cacheonly")
    check([ExporterRequest(number, kind) for number, kind in enumerate(kinds)])
    with pytest.raises(NotFound, match='exporter "s3" could not be found'):
        check([ExporterRequest(0, "s3")])
