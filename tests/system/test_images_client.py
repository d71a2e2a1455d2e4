"""The stock docker client on images: what it prints is what it prints with dockerd 28.5, line by line."""

from __future__ import annotations

import json
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.images_registry import FakeRegistry, archive, docker_registry, fake_registry, htpasswd
from tests.system.images_rig import Rig, rig


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with rig(tmp_path_factory.mktemp("rig")) as made:
        yield made


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as made:
        yield made


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeRegistry]:
    with fake_registry() as made:
        made.put("two", archive({"a/b": b"1" * 1000}), archive({"a/.wh.b": b"", "c": b"2"}))
        yield made


@pytest.fixture(autouse=True)
def no_images_left(daemon: Rig) -> Iterator[None]:
    yield
    (daemon.root / "in-use.json").unlink(missing_ok=True)
    for image in set(daemon.docker("images", "-aq").split()):
        daemon.docker("rmi", "-f", image)
    assert list((daemon.root / "content" / "blobs" / "sha256").iterdir()) == []
    assert daemon.leftovers() == []


def image(daemon: Rig, name: str, content: bytes = b"x", *changes: str) -> str:
    """Imports a small image; returns its ID."""
    options = [part for change in changes for part in ("--change", change)]
    made = subprocess.run(
        ["docker", "-H", f"unix://{daemon.root}/d.sock", "import", *options, "-", name],
        input=archive({"file": content}),
        capture_output=True,
        check=True,
    )
    return made.stdout.decode().strip()


def test_pull_push_and_pull_back(daemon: Rig, address: str, fake: FakeRegistry) -> None:
    source, target = f"{fake.address}/a/x:two", f"{address}/b/y:1"
    lines = daemon.docker("pull", source).splitlines()
    assert lines[0] == "two: Pulling from a/x"
    assert sorted(line.partition(": ")[2] for line in lines[1:9]) == sorted(
        ["Pulling fs layer", "Verifying Checksum", "Download complete", "Pull complete"] * 2
    )
    assert lines[9].startswith("Digest: sha256:")
    assert lines[10:] == [f"Status: Downloaded newer image for {source}", source]
    assert daemon.docker("pull", source).splitlines()[2] == f"Status: Image is up to date for {source}"

    daemon.docker("tag", source, target)
    pushed = daemon.docker("push", target).splitlines()
    assert pushed[0] == f"The push refers to repository [{address}/b/y]"
    assert sorted(line.partition(": ")[2] for line in pushed[1:-1]) == ["Preparing"] * 2 + ["Pushed"] * 2
    assert pushed[-1].startswith("1: digest: sha256:")
    again = daemon.docker("push", target).splitlines()
    assert [line.partition(": ")[2] for line in again[3:5]] == ["Layer already exists"] * 2
    daemon.docker("tag", source, f"{address}/other:1")
    mounted = daemon.docker("push", f"{address}/other:1")
    assert mounted.count("Mounted from b/y") == 2

    before = daemon.docker("images", "-q", "--no-trunc", target)
    daemon.docker("rmi", "-f", before.strip())
    assert "Downloaded newer image" in daemon.docker("pull", target)
    assert daemon.docker("images", "-q", "--no-trunc", target) == before
    actions = {(event[1], event[2]) for event in daemon.events()}
    assert {("pull", source), ("push", target), ("pull", target)} <= actions


def test_layers_are_overlay_s(daemon: Rig, fake: FakeRegistry) -> None:
    name = f"{fake.address}/x:two"
    daemon.docker("pull", name)
    data = json.loads(daemon.docker("image", "inspect", "-f", "{{json .GraphDriver.Data}}", name))
    whiteout = (Path(data["UpperDir"]) / "a" / "b").lstat()
    assert (whiteout.st_rdev, whiteout.st_mode & 0o170000) == (0, 0o020000)
    assert (Path(data["LowerDir"]) / "a" / "b").read_bytes() == b"1" * 1000
    rows = daemon.docker("history", "--format", "{{.CreatedBy}} {{.Size}}", name).splitlines()
    assert rows == ["layer 1 1B", "layer 0 1kB"]


def test_missing_things_in_docker_s_words(daemon: Rig, address: str) -> None:
    says = "Error response from daemon: "
    assert daemon.fails("pull", f"{address}/x:nope") == (
        f"{says}manifest for {address}/x:nope not found: manifest unknown: manifest unknown"
    )
    assert daemon.fails("pull", "127.0.0.1:1/x") == (
        f'{says}Get "http://127.0.0.1:1/v2/": dial tcp 127.0.0.1:1: connect: connection refused'
    )
    assert daemon.fails("push", f"{address}/x:nope") == f"tag does not exist: {address}/x:nope"
    assert daemon.fails("tag", "nope", "x") == f"{says}No such image: nope:latest"
    assert daemon.fails("rmi", "nope") == f"{says}No such image: nope:latest"
    assert daemon.fails("history", "nope") == f"{says}No such image: nope:latest"
    assert daemon.fails("images", "-f", "nope=1") == f"{says}invalid filter 'nope'"


def test_login(daemon: Rig, tmp_path: Path) -> None:
    with docker_registry(tmp_path / "private", htpasswd("anna", "secret")) as private:
        name = f"{private}/x:1"
        image(daemon, name)
        assert daemon.fails("push", name) == "no basic auth credentials"
        wrong = daemon.fails("login", "-u", "anna", "--password-stdin", private, input="wrong")
        text = f"login attempt to http://{private}/v2/ failed with status: 401 Unauthorized"
        assert wrong == f"Error response from daemon: {text}"
        good = daemon.docker("login", "-u", "anna", "--password-stdin", private, input="secret")
        assert "Login Succeeded" in good
        daemon.docker("push", name)
        daemon.docker("rmi", name)
        assert "Downloaded newer image" in daemon.docker("pull", name)
        daemon.docker("logout", private)
        refused = daemon.fails("pull", name)
        assert refused.endswith(f'Head "http://{private}/v2/x/manifests/1": no basic auth credentials')


def test_save_and_load(daemon: Rig, fake: FakeRegistry, tmp_path: Path) -> None:
    name, saved = f"{fake.address}/x:two", tmp_path / "saved.tar"
    daemon.docker("pull", name)
    daemon.docker("tag", name, "second:2")
    first = daemon.docker("images", "-q", "--no-trunc", "second:2")
    daemon.docker("save", "-o", str(saved), name, "second:2")
    with tarfile.open(saved) as tar:
        names = tar.getnames()
        listed = json.load(tar.extractfile("manifest.json"))  # type: ignore[arg-type]
        index = json.load(tar.extractfile("index.json"))  # type: ignore[arg-type]
    assert names[-4:] == ["index.json", "manifest.json", "oci-layout", "repositories"]
    assert listed[0]["RepoTags"] == [name, "second:2"]
    assert all(layer in names for layer in listed[0]["Layers"])
    assert len(index["manifests"]) == 2
    daemon.docker("rmi", "-f", first.strip())
    assert daemon.docker("load", "-q", "-i", str(saved)) == f"Loaded image: {name}\nLoaded image: second:2\n"
    assert daemon.docker("images", "-q", "--no-trunc", "second:2") == first

    index_only = tmp_path / "oci.tar"
    daemon.docker("rmi", "-f", first.strip())
    with tarfile.open(saved) as tar, tarfile.open(index_only, "w:gz") as out:
        for entry in tar:
            if entry.name not in ("manifest.json", "repositories"):
                out.addfile(entry, tar.extractfile(entry) if entry.isfile() else None)
    assert "Loaded image" in daemon.docker("load", "-i", str(index_only))
    assert daemon.docker("images", "-q", "--no-trunc", "second:2") == first


def test_skopeo_reads_what_we_save(daemon: Rig, tmp_path: Path) -> None:
    image(daemon, "mine:1", b"data", 'CMD ["/file"]')
    daemon.docker("save", "-o", str(tmp_path / "saved.tar"), "mine:1")
    for kind in ("docker-archive", "oci-archive"):
        found = subprocess.run(
            ["skopeo", "inspect", "--config", f"{kind}:{tmp_path}/saved.tar"], capture_output=True, check=True
        )
        assert json.loads(found.stdout)["config"]["Cmd"] == ["/file"]


def test_bad_loads(daemon: Rig, tmp_path: Path) -> None:
    junk = tmp_path / "junk"
    junk.write_bytes(b"no archive" * 200)
    assert daemon.fails("load", "-i", str(junk)) != ""
    empty = tmp_path / "empty.tar"
    empty.write_bytes(archive({"a": b"1"}))
    assert "invalid archive" in daemon.fails("load", "-i", str(empty))
    lying = tmp_path / "lying.tar"
    config = json.dumps({"os": "linux", "rootfs": {"type": "layers", "diff_ids": ["sha256:" + "0" * 64]}})
    listed = json.dumps([{"Config": "../c.json", "Layers": ["l.tar"], "RepoTags": ["x:1"]}])
    members = {"c.json": config.encode(), "l.tar": archive({"f": b"1"}), "manifest.json": listed.encode()}
    lying.write_bytes(archive(members))
    assert "invalid diffID for layer 0" in daemon.fails("load", "-i", str(lying))
    assert daemon.docker("images", "-aq") == ""


def test_import(daemon: Rig) -> None:
    image_id = image(daemon, "made:1", b"x", "ENV A=1", "EXPOSE 80", 'ENTRYPOINT ["/e"]')
    shown = json.loads(daemon.docker("image", "inspect", "made:1"))[0]
    assert shown["Id"] == image_id
    assert shown["Comment"] == "Imported from -"
    assert shown["Config"]["Env"] == ["A=1"]
    assert shown["Config"]["Entrypoint"] == ["/e"]
    assert shown["Config"]["ExposedPorts"] == {"80/tcp": {}}
    assert shown["Metadata"]["LastTagTime"] > shown["Created"]
    assert shown["Size"] == 1
    command = ["import", "-c", "RUN x", "-"]
    assert daemon.fails(*command, input="").endswith("RUN is not a valid change command")


def test_removal(daemon: Rig, fake: FakeRegistry) -> None:
    name = f"{fake.address}/x:two"
    daemon.docker("pull", "-q", name)
    full = daemon.docker("images", "-q", "--no-trunc", name).strip()
    short = full.partition(":")[2][:12]
    daemon.docker("tag", name, "b:1")
    assert daemon.fails("rmi", short) == (
        f"Error response from daemon: conflict: unable to delete {short} (must be forced)"
        " - image is referenced in multiple repositories"
    )
    assert daemon.docker("rmi", "b:1") == "Untagged: b:1\n"
    uses = daemon.root / "in-use.json"
    uses.write_text(json.dumps({full: [["c" * 64, False]]}))
    assert daemon.fails("rmi", name) == (
        f'Error response from daemon: conflict: unable to remove repository reference "{name}" (must force)'
        f" - container cccccccccccc is using its referenced image {short}"
    )
    assert daemon.fails("rmi", short).endswith(
        f"unable to delete {short} (must be forced) - image is being used by stopped container cccccccccccc"
    )
    uses.write_text(json.dumps({full: [["c" * 64, True]]}))
    assert daemon.fails("rmi", "-f", short).endswith(
        f"unable to delete {short} (cannot be forced) - image is being used by running container cccccccccccc"
    )
    uses.unlink()
    lines = daemon.docker("rmi", name).splitlines()
    kinds = [line.partition(": ")[0] for line in lines]
    assert kinds == ["Untagged", "Untagged", "Deleted", "Deleted", "Deleted"]
    assert lines[2] == f"Deleted: {full}"


def test_lists_and_filters(daemon: Rig) -> None:
    image(daemon, "one:1", b"1", "LABEL a=b")
    image(daemon, "two/x:2", b"22")
    dangling = image(daemon, "", b"333")

    def shown(*filters: str) -> list[str]:
        options = [part for each in filters for part in ("--filter", each)]
        return daemon.docker("images", "--format", "{{.Repository}}:{{.Tag}}", *options).split()

    assert shown() == ["<none>:<none>", "two/x:2", "one:1"]
    assert shown("dangling=true") == ["<none>:<none>"]
    assert shown("dangling=false") == ["two/x:2", "one:1"]
    assert shown("label=a") == shown("label=a=b") == ["one:1"]
    assert shown("label=a=c") == []
    assert shown("reference=*/x") == ["two/x:2"]
    assert shown("before=two/x:2") == ["one:1"]
    assert shown("since=one:1") == ["<none>:<none>", "two/x:2"]
    assert shown("until=1h") == []
    assert daemon.docker("images", "-q", "one") == daemon.docker("images", "-q", "one:1")
    pruned = daemon.docker("image", "prune", "-f")
    assert f"deleted: {dangling}" in pruned
    assert "Total reclaimed space: 3B" in pruned
    assert shown() == ["two/x:2", "one:1"]


def test_mirror_is_asked_first(tmp_path: Path, fake: FakeRegistry) -> None:
    with rig(tmp_path / "own", "--mirror", f"http://{fake.address}") as own:
        lines = own.docker("pull", "busybox:two").splitlines()
        assert lines[0] == "two: Pulling from library/busybox"
        assert lines[-1] == "docker.io/library/busybox:two"
        assert own.docker("images", "--format", "{{.Repository}}:{{.Tag}}") == "busybox:two\n"


def test_everything_is_there_after_a_restart(tmp_path: Path, fake: FakeRegistry) -> None:
    with rig(tmp_path / "own") as own:
        own.docker("pull", "-q", f"{fake.address}/x:two")
        own.docker("tag", f"{fake.address}/x:two", "kept:1")
        before = own.docker("image", "inspect", "kept:1")
        own.kill()
        own.start()
        assert own.docker("image", "inspect", "kept:1") == before
