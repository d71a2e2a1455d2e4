"""Pure rules of the image service: platforms, manifests, changes, filters, texts."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma

import pytest
import zstandard

from daemon.images import changes, listing, manifests, platforms, progress, times
from daemon.images.manifests import Index, Manifest
from daemon.images.model import AuthConfig, chain_ids, digest_of
from daemon.images.platforms import Platform
from daemon.images.registry.auth import challenges
from daemon.images.registry.endpoints import endpoints
from daemon.images.registry.errors import refusal
from daemon.images.transfer.compression import Decompressed
from storage.errors import DataCorrupted, InvalidArgument, NotFound

DIGEST = "sha256:" + "ab" * 32


# --- platforms -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("linux/amd64", "linux/amd64"),
        ("linux/x86_64", "linux/amd64"),
        ("linux/aarch64", "linux/arm64"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/arm", "linux/arm/v7"),
        ("linux/armhf", "linux/arm/v7"),
        ("linux/arm/6", "linux/arm/v6"),
        ("linux/amd64/v3", "linux/amd64/v3"),
        ("arm64", "linux/arm64"),
        ("windows/amd64", "windows/amd64"),
    ],
)
def test_platforms(text: str, expected: str) -> None:
    assert str(platforms.parse(text)) == expected


@pytest.mark.parametrize("text", ["", "a/b/c/d", "nonsense", "linux/", "li nux/amd64"])
def test_odd_platforms(text: str) -> None:
    with pytest.raises(InvalidArgument):
        platforms.parse(text)


def test_order_of_preference() -> None:
    v7 = Platform("linux", "arm", "v7")
    assert platforms.rank(v7, Platform("linux", "arm", "v7")) == 0
    assert platforms.rank(v7, Platform("linux", "arm", "v6")) == 1
    assert platforms.rank(v7, Platform("linux", "arm", "v8")) is None
    amd64 = Platform("linux", "amd64")
    assert platforms.rank(amd64, Platform("linux", "386")) == 1
    assert platforms.rank(amd64, Platform("linux", "amd64", "v3")) is None
    assert platforms.rank(Platform("linux", "arm64"), Platform("linux", "arm", "v8")) is not None


# --- manifests -----------------------------------------------------------------------------------------


def index(*entries: tuple[str, str, str]) -> bytes:
    listed = [
        {
            "mediaType": manifests.OCI_MANIFEST,
            "digest": digest_of(f"{entry}".encode()),
            "size": 1,
            "platform": {"os": entry[0], "architecture": entry[1], "variant": entry[2]},
        }
        for entry in entries
    ]
    return json.dumps({"schemaVersion": 2, "manifests": listed}).encode()


def test_index_picks_the_best_variant() -> None:
    body = index(
        ("linux", "arm", "v5"), ("linux", "arm", "v7"), ("linux", "arm", "v6"), ("unknown", "unknown", "")
    )
    decoded = manifests.decode(body, manifests.OCI_INDEX)
    assert isinstance(decoded, Index)
    chosen = decoded.candidates(Platform("linux", "arm", "v7"))
    order = [("linux", "arm", "v7"), ("linux", "arm", "v6"), ("linux", "arm", "v5")]
    assert [each.digest for each in chosen] == [digest_of(f"{entry}".encode()) for entry in order]
    with pytest.raises(
        NotFound, match=r"^no matching manifest for linux/s390x in the manifest list entries$"
    ):
        decoded.candidates(Platform("linux", "s390x"))


def test_schema1_is_refused_by_name() -> None:
    body = json.dumps({"schemaVersion": 1, "name": "x"}).encode()
    with pytest.raises(InvalidArgument, match=r"schema 1 support has been removed.*docker.io/library/x:1"):
        manifests.decode(body, manifests.SCHEMA1_SIGNED, "docker.io/library/x:1")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"config": 1, "layers": []}',
        b'{"config": {"digest": "sha256:zz"}, "layers": []}',
        b'{"config": {"digest": "x", "size": "y"}}',
        b'{"manifests": 3}',
    ],
)
def test_odd_manifests_are_refused(body: bytes) -> None:
    with pytest.raises(InvalidArgument):
        manifests.decode(body, manifests.DOCKER_MANIFEST)


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (
            "application/vnd.docker.plugin.v1+json",
            'Encountered remote "application/vnd.docker.plugin.v1+json"(plugin)',
        ),
        ("application/vnd.cncf.helm.config.v1+json", "unsupported media type application/vnd.cncf.helm"),
    ],
)
def test_other_artifacts_are_refused(config: str, text: str) -> None:
    head = {"mediaType": config, "digest": DIGEST, "size": 1}
    with pytest.raises(InvalidArgument) as caught:
        manifests.decode(json.dumps({"config": head, "layers": []}).encode(), manifests.OCI_MANIFEST)
    assert str(caught.value).startswith(text)


def test_docker_manifest_is_what_dockerd_writes() -> None:
    """Digest and bytes were taken from a dockerd 28.5 that pushed such an image (size 527 there as well)."""
    config = manifests.Descriptor(manifests.DOCKER_CONFIG, "sha256:" + "d9" * 32, 913)
    layer = manifests.Descriptor(manifests.DOCKER_LAYER, "sha256:" + "4e" * 32, 1080000)
    body = manifests.docker_manifest(config, [layer])
    assert len(body) == 527
    decoded = manifests.decode(body, manifests.DOCKER_MANIFEST)
    assert decoded == Manifest(config, (layer,))


def test_chain_ids() -> None:
    first, second = "sha256:" + "1" * 64, "sha256:" + "2" * 64
    assert chain_ids([]) == ()
    assert chain_ids([first, second]) == (first, digest_of(f"{first} {second}".encode()))


# --- changes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ('CMD ["a", "b"]', {"Cmd": ["a", "b"]}),
        ("cmd a b", {"Cmd": ["/bin/sh", "-c", "a b"]}),
        ("ENTRYPOINT []", {"Entrypoint": []}),
        ("ENV A=1 B='2 3' C=\"4 5\"", {"Env": ["A=1", "B=2 3", "C=4 5"]}),
        ("ENV A b c", {"Env": ["A=b c"]}),
        (
            "EXPOSE 80 53/udp 90-91",
            {"ExposedPorts": {"80/tcp": {}, "53/udp": {}, "90/tcp": {}, "91/tcp": {}}},
        ),
        ('LABEL a=b "c d"=e', {"Labels": {"a": "b", "c d": "e"}}),
        ("USER me", {"User": "me"}),
        ("WORKDIR /x/", {"WorkingDir": "/x"}),
        ('VOLUME ["/a", "/b"]', {"Volumes": {"/a": {}, "/b": {}}}),
        ("STOPSIGNAL SIGUSR1", {"StopSignal": "SIGUSR1"}),
        ("ONBUILD RUN x", {"OnBuild": ["RUN x"]}),
        ("HEALTHCHECK NONE", {"Healthcheck": {"Test": ["NONE"]}}),
        (
            "HEALTHCHECK --interval=1m30s --retries=3 CMD curl x",
            {"Healthcheck": {"Test": ["CMD-SHELL", "curl x"], "Interval": 90 * 10**9, "Retries": 3}},
        ),
    ],
)
def test_change_instructions(change: str, expected: dict[str, object]) -> None:
    assert changes.apply({}, [change]) == expected


def test_changes_build_on_each_other() -> None:
    result = changes.apply({"Env": ["A=1"], "WorkingDir": "/w"}, ["ENV B=$A/${A}\\$", "WORKDIR x", "ENV A=2"])
    assert result["Env"] == ["A=2", "B=1/1$"]
    assert result["WorkingDir"] == "/w/x"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("RUN x", "RUN is not a valid change command"),
        ("ENV", "ENV requires at least one argument"),
        ("ENV A", "ENV must have two arguments"),
        ("EXPOSE 0", "invalid containerPort: 0"),
        ("EXPOSE 70000", "invalid containerPort: 70000"),
        ("ONBUILD FROM x", "FROM isn't allowed as an ONBUILD trigger"),
        ("HEALTHCHECK --interval=x CMD a", 'time: invalid duration "x"'),
    ],
)
def test_wrong_changes(change: str, text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        changes.apply({}, [change])
    assert str(caught.value) == text


# --- texts, times, filters -----------------------------------------------------------------------------


def test_progress_bars_are_docker_s() -> None:
    assert progress.bar(36445, 1080000) == "[=>" + " " * 49 + "]  36.45kB/1.08MB"
    assert progress.bar(1080000, 1080000) == "[" + "=" * 50 + ">]   1.08MB/1.08MB"
    assert progress.bar(1500, 0) == "   1.5kB"


def test_times() -> None:
    assert times.nanoseconds("1970-01-01T00:00:01.5Z") == 1_500_000_000
    assert times.nanoseconds("1970-01-01T01:00:00+01:00") == 0
    assert times.nanoseconds("0001-01-01T00:00:00Z") == 0
    assert times.nanoseconds("") == 0
    assert times.timestamp("12.25") == 12_250_000_000
    assert times.rfc3339(1_500_000_000) == "1970-01-01T00:00:01.5Z"
    with pytest.raises(InvalidArgument):
        times.timestamp("yesterday")


def test_filter_values() -> None:
    assert listing.flag({"dangling": ["1"]}, "dangling", False)
    assert listing.flag({}, "dangling", True)
    with pytest.raises(InvalidArgument, match=r"^invalid filter 'dangling=\[x\]'$"):
        listing.flag({"dangling": ["x"]}, "dangling", False)
    with pytest.raises(InvalidArgument, match=r"^invalid filter 'nope'$"):
        listing.check({"nope": []}, listing.LISTED)
    assert listing.labelled({"a": "b"}, ["a", "a=b"])
    assert not listing.labelled({"a": "b"}, ["a=c"])


# --- registry ------------------------------------------------------------------------------------------


def test_challenge() -> None:
    header = 'Bearer realm="https://auth/token",service="reg, istry",scope="repository:x:pull"'
    (found,) = challenges([header])
    assert found.scheme == "bearer"
    assert found.parameters == {
        "realm": "https://auth/token",
        "service": "reg, istry",
        "scope": "repository:x:pull",
    }


@pytest.mark.parametrize(
    ("status", "body", "code", "text"),
    [
        (
            404,
            b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}',
            "MANIFEST_UNKNOWN",
            "manifest unknown: manifest unknown",
        ),
        (
            403,
            b'{"errors":[{"code":"DENIED"}]}',
            "DENIED",
            "denied: requested access to the resource is denied",
        ),
        (
            401,
            b'{"details":"incorrect username or password"}',
            "UNAUTHORIZED",
            "unauthorized: incorrect username or password",
        ),
        (500, b"", "status", "received unexpected HTTP status: 500 Internal Server Error"),
        (
            404,
            b"<html>",
            "status",
            "error parsing HTTP 404 response body: invalid character '<' looking for beginning of value: \"<html>\"",
        ),
    ],
)
def test_refusals(status: int, body: bytes, code: str, text: str) -> None:
    error = refusal(status, body)
    assert (error.code, str(error)) == (code, text)


def test_endpoints() -> None:
    def urls(domain: str, insecure: tuple[str, ...] = (), **options: bool) -> list[str]:
        return [each.url for each in endpoints(domain, insecure, ("http://mirror/",), **options)]

    assert urls("docker.io") == ["http://mirror", "https://registry-1.docker.io"]
    assert urls("docker.io", for_push=True) == ["https://registry-1.docker.io"]
    assert urls("127.0.0.1:5000") == ["https://127.0.0.1:5000", "http://127.0.0.1:5000"]
    assert urls("[::1]:5000") == ["https://[::1]:5000", "http://[::1]:5000"]
    assert urls("192.0.2.1:5000") == ["https://192.0.2.1:5000"]
    assert urls("192.0.2.1:5000", ("192.0.2.0/24",))[1:] == ["http://192.0.2.1:5000"]
    assert urls("r.invalid:5000", ("r.invalid:5000",))[1:] == ["http://r.invalid:5000"]


def test_credentials() -> None:
    assert AuthConfig.decode("") is None
    found = AuthConfig.decode("eyJ1c2VybmFtZSI6ImFubmEiLCJwYXNzd29yZCI6InNlY3JldCJ9")
    assert found == AuthConfig("anna", "secret")
    assert "secret" not in repr(found)
    with pytest.raises(InvalidArgument):
        AuthConfig.decode("bm9wZQ==")


# --- compression ---------------------------------------------------------------------------------------

PLAIN = bytes(range(256)) * 5000


@pytest.mark.parametrize(
    ("name", "packed"),
    [
        ("none", PLAIN),
        ("gzip", gzip.compress(PLAIN)),
        ("gzip", gzip.compress(PLAIN[:1000]) + gzip.compress(PLAIN[1000:])),
        ("bzip2", bz2.compress(PLAIN)),
        ("xz", lzma.compress(PLAIN)),
        ("zstd", zstandard.compress(PLAIN)),
        ("zstd", zstandard.compress(PLAIN[:1000]) + zstandard.compress(PLAIN[1000:])),
        ("zstd", b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd" + zstandard.compress(PLAIN)),
    ],
)
def test_decompresses(name: str, packed: bytes) -> None:
    opened = Decompressed(io.BytesIO(packed))
    parts = []
    while part := opened.read(10_000):
        parts.append(part)
    assert opened.compression == name
    assert b"".join(parts) == PLAIN


@pytest.mark.parametrize("packed", [gzip.compress(PLAIN)[:-20], gzip.compress(PLAIN)[:200] + b"x" * 400])
def test_damage_is_said(packed: bytes) -> None:
    opened = Decompressed(io.BytesIO(packed))
    with pytest.raises(DataCorrupted):
        while opened.read(10_000):
            pass
