"""Pulls that go wrong: hostile, broken and slow registries, a full disk, kill -9. Nothing half-made stays."""

from __future__ import annotations

import gzip
import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.system.images_registry import FakeRegistry, archive, digest_of, fake_registry
from tests.system.images_rig import Rig, rig

LARGE = random.Random(1).randbytes(600_000)


@pytest.fixture(scope="module")
def registry() -> Iterator[FakeRegistry]:
    with fake_registry() as made:
        yield made


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with rig(tmp_path_factory.mktemp("rig"), "--silence", "2", "--pause", "0.1") as made:
        yield made


@pytest.fixture(autouse=True)
def nothing_half_made(daemon: Rig) -> Iterator[None]:
    """After each test: no unfinished blob, no snapshot without an image, no worker that still runs."""
    yield
    for image in set(daemon.docker("images", "-aq").split()):
        daemon.docker("rmi", "-f", image)
    eventually(lambda: not daemon.leftovers() and not snapshots(daemon) and not blobs(daemon))


def eventually(condition: Callable[[], bool], seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def snapshots(daemon: Rig) -> list[str]:
    return [path.name for path in (daemon.root / "snapshots").iterdir() if path.name.isdigit()]


def blobs(daemon: Rig) -> list[str]:
    return os.listdir(daemon.root / "content" / "blobs" / "sha256")


def unpackers() -> list[str]:
    found = subprocess.run(["pgrep", "-f", "transfer.unpack"], capture_output=True, text=True, check=False)
    return found.stdout.split()


def test_tampered_layer(daemon: Rig, registry: FakeRegistry) -> None:
    (digest,) = registry.put("tampered", archive({"a": LARGE}))
    registry.faults[digest] = "tamper"
    error = daemon.fails("pull", f"{registry.address}/x:tampered")
    assert error == f"filesystem layer verification failed for digest {digest}"
    assert blobs(daemon) == []


def test_manifest_that_is_not_what_was_asked_for(daemon: Rig, registry: FakeRegistry) -> None:
    registry.put("real", archive({"a": b"1"}))
    asked = "sha256:" + "0" * 64
    registry.manifests[asked] = registry.manifests["real"]
    error = daemon.fails("pull", f"{registry.address}/x@{asked}")
    assert error.endswith(f"manifest verification failed for digest {asked}")


def test_configuration_that_lies_about_its_layers(daemon: Rig, registry: FakeRegistry) -> None:
    other = gzip.compress(archive({"other": b"1"}))
    registry.put("liar", archive({"a": b"1"}), packed=[other])
    error = daemon.fails("pull", f"{registry.address}/x:liar")
    assert error == "layers from manifest don't match image configuration"


@pytest.mark.parametrize(
    ("name", "packed", "text"),
    [
        ("cut-tar", gzip.compress(archive({"a": LARGE})[:100_000]), "failed to register layer: "),
        (
            "cut-gzip",
            gzip.compress(archive({"a": LARGE}))[:100_000],
            "failed to register layer: unexpected EOF",
        ),
        ("no-tar", gzip.compress(b"this is no archive at all" * 100), "failed to register layer: "),
        ("parent", gzip.compress(archive({"../evil": b"1"})), "failed to register layer: "),
    ],
    ids=["cut-tar", "cut-gzip", "no-tar", "parent"],
)
def test_bad_archives(daemon: Rig, registry: FakeRegistry, name: str, packed: bytes, text: str) -> None:
    registry.put(name, archive({"a": b"1"}), packed=[packed])
    error = daemon.fails("pull", f"{registry.address}/x:{name}")
    assert error.startswith(text), error
    assert "evil" not in os.listdir(daemon.root / "snapshots")


def test_absolute_names_and_links_stay_inside(daemon: Rig, registry: FakeRegistry, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    registry.put("absolute", archive({str(victim): b"inside"}))
    daemon.docker("pull", f"{registry.address}/x:absolute")
    assert not victim.exists()
    layer = daemon.docker(
        "image", "inspect", "-f", "{{.GraphDriver.Data.UpperDir}}", f"{registry.address}/x:absolute"
    )
    assert (Path(layer.strip()) / str(victim).lstrip("/")).read_bytes() == b"inside"


def test_silent_registry_gives_up_with_a_reason(daemon: Rig, registry: FakeRegistry) -> None:
    (digest,) = registry.put("hangs", archive({"a": LARGE}))
    registry.faults[digest] = "hang"
    before = time.monotonic()
    error = daemon.fails("pull", f"{registry.address}/x:hangs")
    assert "Client.Timeout exceeded" in error
    assert f"/v2/x/blobs/{digest}" in error
    assert time.monotonic() - before < 30


def test_broken_connection_is_resumed(daemon: Rig, registry: FakeRegistry) -> None:
    (digest,) = registry.put("broken", archive({"a": LARGE}))
    registry.faults[digest], registry.times[digest] = "close", 2
    before = len(registry.asked)
    output = daemon.docker("pull", f"{registry.address}/x:broken")
    assert "Status: Downloaded newer image" in output
    ranges = [asked for path, asked in registry.asked[before:] if path.endswith(digest)]
    starts = [int(asked.removeprefix("bytes=").removesuffix("-")) for asked in ranges if asked]
    assert len(starts) >= 2
    assert starts == sorted(starts)
    assert all(0 < start < len(registry.blobs[digest]) for start in starts)


def test_registry_without_ranges_starts_over(daemon: Rig, registry: FakeRegistry) -> None:
    (digest,) = registry.put("restart", archive({"b": LARGE}))
    registry.faults[digest], registry.times[digest] = "restart", 1
    output = daemon.docker("pull", f"{registry.address}/x:restart")
    assert "Status: Downloaded newer image" in output


def test_connection_that_always_breaks(daemon: Rig, registry: FakeRegistry) -> None:
    (digest,) = registry.put("always", archive({"c": LARGE}))
    registry.faults[digest], registry.times[digest] = "restart", 99
    error = daemon.fails("pull", f"{registry.address}/x:always")
    assert error.endswith("unexpected EOF")
    assert len([1 for path, _ in registry.asked if path.endswith(digest)]) == 5


def test_platforms(daemon: Rig, registry: FakeRegistry) -> None:
    registry.put("arm", archive({"arm": b"1"}), architecture="arm64")
    registry.put("amd", archive({"amd": b"1"}))
    registry.put_index("both", ("arm", "arm64"), ("amd", "amd64"))
    registry.put_index("only-arm", ("arm", "arm64"))
    name = f"{registry.address}/x"
    error = daemon.fails("pull", f"{name}:only-arm")
    assert error.endswith("no matching manifest for linux/amd64 in the manifest list entries")
    daemon.docker("pull", f"{name}:both")
    assert daemon.docker("image", "inspect", "-f", "{{.Architecture}}", f"{name}:both") == "amd64\n"
    daemon.docker("pull", "--platform", "linux/arm64", f"{name}:both")
    assert daemon.docker("image", "inspect", "-f", "{{.Architecture}}", f"{name}:both") == "arm64\n"
    digest = digest_of(registry.manifests["both"][1])
    assert (
        daemon.docker("image", "inspect", "-f", "{{index .RepoDigests 0}}", f"{name}:both")
        == f"{name}@{digest}\n"
    )


def test_schema1(daemon: Rig, registry: FakeRegistry) -> None:
    body = b'{"schemaVersion": 1, "name": "x", "tag": "old", "fsLayers": [], "history": []}'
    registry.put_manifest("old", "application/vnd.docker.distribution.manifest.v1+prettyjws", body)
    error = daemon.fails("pull", f"{registry.address}/x:old")
    assert "schema 1 support has been removed" in error


def test_two_pulls_share_one_download(daemon: Rig, registry: FakeRegistry) -> None:
    (digest,) = registry.put("shared", archive({"d": LARGE}))
    registry.faults[digest] = "slow"
    command = ["docker", "-H", f"unix://{daemon.root}/d.sock", "pull", f"{registry.address}/x:shared"]
    pulls = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [pull.communicate(timeout=30)[0] for pull in pulls]
    assert all("Pull complete" in output for output in outputs)
    assert len([1 for path, _ in registry.asked if path.endswith(digest)]) == 1


def test_a_client_that_leaves_cancels_its_pull(daemon: Rig, registry: FakeRegistry) -> None:
    (digest,) = registry.put("left", archive({"e": LARGE}))
    registry.faults[digest] = "hang"
    command = ["docker", "-H", f"unix://{daemon.root}/d.sock", "pull", f"{registry.address}/x:left"]
    client = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    eventually(lambda: any(path.endswith(digest) for path, _ in registry.asked) and bool(snapshots(daemon)))
    client.kill()
    client.wait()
    eventually(lambda: not daemon.leftovers() and not snapshots(daemon) and not unpackers())


def test_one_of_two_leaves_and_the_other_goes_on(daemon: Rig, registry: FakeRegistry) -> None:
    (digest,) = registry.put("one-left", archive({"f": LARGE}))
    registry.faults[digest] = "slow"
    command = ["docker", "-H", f"unix://{daemon.root}/d.sock", "pull", f"{registry.address}/x:one-left"]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    eventually(lambda: any(path.endswith(digest) for path, _ in registry.asked))
    second = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    time.sleep(0.5)
    first.kill()
    first.wait()
    assert "Pull complete" in second.communicate(timeout=30)[0]
    assert len([1 for path, _ in registry.asked if path.endswith(digest)]) == 1


def test_killed_daemon_leaves_nothing_and_pulls_again(tmp_path: Path, registry: FakeRegistry) -> None:
    first, second = registry.put("killed", archive({"g": b"1"}), archive({"h": LARGE}))
    registry.faults[second] = "hang"
    with rig(tmp_path / "own") as own:
        command = ["docker", "-H", f"unix://{own.root}/d.sock", "pull", f"{registry.address}/x:killed"]
        client = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        eventually(lambda: first.partition(":")[2] in blobs(own) and bool(own.leftovers()))
        own.kill()
        client.wait()
        eventually(lambda: not unpackers())
        own.start()
        assert own.docker("images", "-aq") == ""
        assert (own.leftovers(), snapshots(own), blobs(own)) == ([], [], [])
        registry.faults.clear()
        assert "Downloaded newer image" in own.docker("pull", f"{registry.address}/x:killed")


def test_killed_between_layer_and_image(tmp_path: Path, registry: FakeRegistry) -> None:
    """The worst moment: a layer is committed, its image is not recorded."""
    registry.put("commit", archive({"i": b"1"}), archive({"j": b"2"}))
    with rig(tmp_path / "own") as own:
        own.stop()
        own.start(PYD_FAILPOINTS="images.layer.commit=1*off->kill")
        own.fails("pull", f"{registry.address}/x:commit")
        assert own.process is not None
        own.process.wait(5)
        own.start()
        assert own.docker("images", "-aq") == ""
        assert (own.leftovers(), snapshots(own), blobs(own)) == ([], [], [])
        assert "Downloaded newer image" in own.docker("pull", f"{registry.address}/x:commit")


def test_full_disk(tmp_path: Path, registry: FakeRegistry) -> None:
    """8 MiB of disk for 16 MiB of zeros, which compress to nothing: it is the unpacking that fails."""
    registry.put("zeros", archive({"zeros": bytes(16 << 20)}))
    root = tmp_path / "small"
    root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(root)], check=True)
    try:
        with rig(root) as own:
            error = own.fails("pull", f"{registry.address}/x:zeros")
            assert "No space left on device" in error
            eventually(lambda: not own.leftovers() and not snapshots(own))
            registry.put("little", archive({"little": b"1"}))
            assert "Downloaded newer image" in own.docker("pull", f"{registry.address}/x:little")
    finally:
        subprocess.run(["umount", "-l", str(root)], check=True)
