"""Exported caches as documents: what is written is read again, and what makes no sense is refused."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from daemon.build.remotecache import MEMBER, config, options
from daemon.build.remotecache.config import Writer
from daemon.build.remotecache.importing import Reader
from daemon.images.model import chain_ids, digest_of
from storage.errors import InvalidArgument, PydError


def digest(text: str) -> str:
    return digest_of(text.encode())


BASE, ONE, TWO, OTHER = (digest(text) for text in ("base", "one", "two", "other"))
MEMO = (chain_ids((BASE, OTHER))[-1], ("/out",), True, ("x",))


def written() -> Writer:
    writer = Writer()
    writer.step(digest("key 1"), (BASE, ONE), 10**18)
    writer.step(digest("key 2"), (BASE, ONE, TWO), 10**18 + 1)
    writer.step(digest("key 3"), (BASE, OTHER), 10**18 + 2)
    writer.read((BASE, OTHER), MEMO, digest("content"))
    return writer


def blob(diff_id: str) -> str:
    return digest(f"blob of {diff_id}")


def test_a_cache_is_read_as_it_was_written() -> None:
    document, order = written().document(blob)
    table = config.decode(config.encode(document))
    assert table.steps.keys() == {digest(f"key {n}") for n in (1, 2, 3)}
    step = table.find(digest("key 2"))
    assert step is not None and (step.diff_ids, step.created) == ((BASE, ONE, TWO), 10**18 + 1)
    assert table.reads == {MEMO: digest("content")}
    assert sorted(order) == sorted((BASE, ONE, TWO, OTHER))


def test_buildkits_part_names_layers_with_their_parents() -> None:
    document, order = written().document(blob)
    for record in document["records"][:-1]:
        place: int = record["layers"][0]["layer"]
        stack: list[str] = []
        while place >= 0:
            stack.insert(0, document["layers"][place]["blob"])
            place = document["layers"][place]["parent"]
        table = config.decode(config.encode(document))
        step = table.find(record["digest"])
        assert step is not None and stack == [blob(diff_id) for diff_id in step.diff_ids]
    assert [layer["blob"] for layer in document["layers"]] == [blob(diff_id) for diff_id in order]


def test_layers_that_are_not_along_leave_their_keys() -> None:
    document, order = written().document(lambda diff_id: None if diff_id == OTHER else blob(diff_id))
    assert OTHER not in order
    layerless = [record for record in document["records"] if record["digest"] == digest("key 3")]
    assert layerless == [{"digest": digest("key 3")}]
    step = config.decode(config.encode(document)).find(digest("key 3"))
    assert step is not None and step.diff_ids == (BASE, OTHER)


def test_inline_records_count_the_images_own_layers() -> None:
    records = written().inline((BASE, ONE, TWO))
    places = {
        record["digest"]: [each["layer"] for each in record.get("layers", ())] for record in records[:-1]
    }
    assert places == {digest("key 1"): [1], digest("key 2"): [2], digest("key 3"): []}
    assert config.decode(config.encode(records)).find(digest("key 3")) is not None


def test_another_engines_cache_is_an_empty_one() -> None:
    theirs = {
        "layers": [{"blob": blob(BASE), "parent": -1}],
        "records": [{"digest": BASE, "layers": [{"layer": 0}]}],
    }
    assert not config.decode(config.encode(theirs)).steps
    assert not config.decode(b"{}").steps
    assert not config.decode(b"[]").steps


def own(**changes: Any) -> bytes:
    members = {"trees": [[BASE, -1], [ONE, 0]], "steps": [[BASE, 1, 5]], "reads": []}
    return json.dumps({"records": [{"digest": config.MARK, "pyd": members | changes}]}).encode()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nothing",
        b"[" * 100_000,
        b'{"records": 3}',
        own(trees=None),
        own(trees=[[BASE, 0]]),
        own(trees=[[BASE, -1], [ONE, 1]]),
        own(trees=[[BASE, -2]]),
        own(trees=[[BASE, True]]),
        own(trees=[["sha256:short", -1]]),
        own(trees=[[BASE]]),
        own(trees=[[BASE, -1]] * 30_000),
        own(trees=[[BASE, n - 1] for n in range(5000)]),
        own(steps=[[BASE, 2, 5]]),
        own(steps=[[BASE, -1, 5]]),
        own(steps=[[BASE, 1, -5]]),
        own(steps=[[BASE, 1, 1 << 70]]),
        own(steps=[["../../etc", 1, 5]]),
        own(reads=[[0, "text", True, [], BASE]]),
        own(reads=[[0, [1], True, [], BASE]]),
        own(reads=[[9, [], True, [], BASE]]),
        own(reads=[[0, [], True, [], "x"]]),
    ],
)
def test_nonsense_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidArgument):
        config.decode(body)
    assert config.decode(own()).steps  # what the changes were made to is good


class Store:
    """Documents by digest."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}

    def add(self, document: Any) -> str:
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.blobs[digest_of(body)] = body
        return digest_of(body)

    async def __call__(self, digest: str, *, manifest: bool) -> bytes:
        return self.blobs[digest]


def layer(diff_id: str) -> dict[str, Any]:
    return {
        "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
        "digest": blob(diff_id),
        "size": 7,
        "annotations": {"containerd.io/uncompressed": diff_id},
    }


@pytest.mark.parametrize("image", [True, False])
async def test_both_kinds_of_manifest(image: bool) -> None:
    store = Store()
    document, order = written().document(blob)
    head = {"mediaType": config.CONFIG_TYPE, "digest": store.add(config.encode(document)), "size": 1}
    layers = [layer(diff_id) for diff_id in order]
    members = {"config": head, "layers": layers} if image else {"manifests": [*layers, head]}
    (cache,) = await Reader(store, None, "").read(json.dumps(members).encode())
    assert cache.table.find(digest("key 1")) is not None
    assert cache.layers[ONE].digest == blob(ONE)


async def test_an_index_of_images_with_inline_caches() -> None:
    store = Store()
    records = written().inline((BASE, ONE, TWO))
    image = {
        "rootfs": {"diff_ids": [BASE, ONE, TWO]},
        MEMBER: base64.b64encode(config.encode(records)).decode(),
    }
    plain = {"rootfs": {"diff_ids": [BASE]}}
    entries = []
    for each, diff_ids in ((image, (BASE, ONE, TWO)), (plain, (BASE,))):
        head = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": store.add(each), "size": 1}
        manifest = {"config": head, "layers": [layer(diff_id) for diff_id in diff_ids]}
        entries.append({"digest": store.add(manifest), "size": 1, "mediaType": "x"})
    (cache,) = await Reader(store, None, "").read(json.dumps({"manifests": entries}).encode())
    assert cache.layers.keys() == {BASE, ONE, TWO}
    assert cache.table.find(digest("key 2")) is not None


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"{}",
        b'{"config": 7}',
        b'{"config": {"mediaType": "application/vnd.buildkit.cacheconfig.v0", "digest": "no", "size": 1}}',
        b'{"manifests": [7]}',
        b'{"manifests": [{"digest": "sha256:x"}]}',
    ],
)
async def test_manifests_that_are_none(body: bytes) -> None:
    with pytest.raises(PydError):
        await Reader(Store(), None, "").read(body)


async def test_an_index_of_indexes_ends() -> None:
    class Endless(Store):
        async def __call__(self, digest: str, *, manifest: bool) -> bytes:
            return json.dumps({"manifests": [{"digest": BASE, "size": 1}]}).encode()

    with pytest.raises(InvalidArgument, match="too many manifests"):
        await Reader(Endless(), None, "").read(
            b'{"manifests": [{"digest": "%s", "size": 1}]}' % BASE.encode()
        )


# -- what --cache-to may say


def test_defaults_are_buildkits() -> None:
    made = options.parse("registry", {"ref": "localhost:5000/a"})
    assert (made.all, made.manifest, made.oci, str(made.reference)) == (
        False,
        True,
        True,
        "localhost:5000/a:latest",
    )
    made = options.parse("local", {"dest": "d", "oci-mediatypes": "false", "mode": "max"})
    assert (made.all, made.manifest, made.oci) == (True, False, False)


@pytest.mark.parametrize(
    ("kind", "attributes", "words"),
    [
        ("gha", {}, 'unknown cache exporter: "gha"'),
        ("s3", {"bucket": "b"}, 'unknown cache exporter: "s3"'),
        ("azblob", {}, 'unknown cache exporter: "azblob"'),
        ("registry", {}, "failed to configure registry cache exporter: missing ref"),
        ("registry", {"ref": "UPPER"}, "invalid reference format"),
        ("local", {}, "failed to configure local cache exporter: local cache exporter requires dest"),
        ("local", {"dest": "d", "image-manifest": "perhaps"}, "failed to parse image-manifest"),
        (
            "local",
            {"dest": "d", "image-manifest": "true", "oci-mediatypes": "0"},
            "OCI mediatypes are required",
        ),
        ("local", {"dest": "d", "compression": "lzma"}, "unsupported compression type lzma"),
        ("local", {"dest": "d", "compression-level": "x"}, "non-integer value"),
    ],
)
def test_refused_exports(kind: str, attributes: dict[str, str], words: str) -> None:
    with pytest.raises(InvalidArgument) as error:
        options.check([(kind, attributes)])
    assert words in str(error.value)


def test_one_place_twice() -> None:
    with pytest.raises(InvalidArgument, match=r"duplicate cache exports \[local\]"):
        options.check([("local", {"dest": "d"}), ("local", {"dest": "d"})])
