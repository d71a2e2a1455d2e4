"""Registries for tests: Debian's docker-registry, and one of our own that misbehaves on demand."""

from __future__ import annotations

import contextlib
import ctypes
import gzip
import hashlib
import io
import json
import re
import socket
import subprocess
import tarfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
INDEX = "application/vnd.oci.image.index.v1+json"
LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
CONFIG = "application/vnd.docker.container.image.v1+json"


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def archive(files: dict[str, bytes]) -> bytes:
    """An uncompressed tar; names may be as hostile as wanted."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()


class FakeRegistry(ThreadingHTTPServer):
    """Serves what is put into it. Faults by blob digest:

    hang        sends half of the blob, then nothing more (until the registry closes)
    close       sends half and closes, `times` times; ranges are honoured afterwards
    restart     as close, but ignores ranges: every answer begins at 0
    tamper      sends as many other bytes
    slow        sends in small pieces with pauses
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, tuple[str, bytes]] = {}
        self.faults: dict[str, str] = {}
        self.times: dict[str, int] = {}
        self.asked: list[tuple[str, str]] = []
        self.closing = threading.Event()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are what is being tested."""

    def put(
        self, tag: str, *layers: bytes, packed: list[bytes] | None = None, architecture: str = "amd64"
    ) -> list[str]:
        """An image of uncompressed layers; returns the digests of its blobs."""
        blobs = packed or [gzip.compress(layer, 1, mtime=0) for layer in layers]
        config = {
            "architecture": architecture,
            "os": "linux",
            "created": "2024-01-02T03:04:05Z",
            "config": {"Cmd": ["/bin/x"], "Labels": {"made": "by hand"}},
            "rootfs": {"type": "layers", "diff_ids": [digest_of(layer) for layer in layers]},
            "history": [
                {"created": "2024-01-02T03:04:05Z", "created_by": f"layer {n}"} for n in range(len(layers))
            ],
        }
        body = json.dumps(config).encode()
        for blob in (body, *blobs):
            self.blobs[digest_of(blob)] = blob
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": digest_of(body), "size": len(body)},
            "layers": [{"mediaType": LAYER, "digest": digest_of(blob), "size": len(blob)} for blob in blobs],
        }
        self.put_manifest(tag, MANIFEST, json.dumps(document).encode())
        return [digest_of(blob) for blob in blobs]

    def put_manifest(self, tag: str, kind: str, body: bytes) -> None:
        self.manifests[tag] = self.manifests[digest_of(body)] = (kind, body)

    def put_index(self, tag: str, *entries: tuple[str, str]) -> None:
        """`entries`: (tag of an image, its architecture)."""
        listed = []
        for name, architecture in entries:
            body = self.manifests[name][1]
            platform = {"os": "linux", "architecture": architecture}
            listed.append(
                {"mediaType": MANIFEST, "digest": digest_of(body), "size": len(body), "platform": platform}
            )
        self.put_manifest(tag, INDEX, json.dumps({"schemaVersion": 2, "manifests": listed}).encode())


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeRegistry

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers.get("Range", "")))
        if self.path == "/v2/":
            self._answer(200, b"{}")
        elif match := re.fullmatch(r"/v2/.+/manifests/(.+)", self.path):
            kind, body = self.server.manifests.get(match[1], ("", b""))
            if body:
                self._answer(200, body, kind)
            else:
                self._refuse("MANIFEST_UNKNOWN", "manifest unknown")
        elif (match := re.fullmatch(r"/v2/.+/blobs/(.+)", self.path)) and match[1] in self.server.blobs:
            self._blob(match[1], self.server.blobs[match[1]])
        else:
            self._refuse("NAME_UNKNOWN", "repository name not known to registry")

    do_HEAD = do_GET

    def _answer(self, status: int, body: bytes, kind: str = "application/json", **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _refuse(self, code: str, message: str) -> None:
        self._answer(404, json.dumps({"errors": [{"code": code, "message": message}]}).encode())

    def _blob(self, digest: str, body: bytes) -> None:
        fault = self.server.faults.get(digest, "")
        offset = 0
        if fault != "restart" and (match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))):
            offset = int(match[1])
        if fault == "tamper":
            body = body[:-1] + bytes([body[-1] ^ 1])
        self.send_response(206 if offset else 200)
        self.send_header("Content-Length", str(len(body) - offset))
        if offset:
            self.send_header("Content-Range", f"bytes {offset}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        self._send(digest, fault, body[offset:])

    def _send(self, digest: str, fault: str, body: bytes) -> None:
        half = len(body) // 2
        if fault == "hang":
            self.wfile.write(body[:half])
            self.wfile.flush()
            self.server.closing.wait(30)
        elif fault in ("close", "restart") and self.server.times.get(digest, 0) > 0:
            self.server.times[digest] -= 1
            self.wfile.write(body[:half])
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        elif fault == "slow":
            step = max(len(body) // 50, 1)
            for at in range(0, len(body), step):
                self.wfile.write(body[at : at + step])
                self.wfile.flush()
                if self.server.closing.wait(0.05):
                    return
        else:
            self.wfile.write(body)


@contextlib.contextmanager
def fake_registry() -> Iterator[FakeRegistry]:
    server = FakeRegistry()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def htpasswd(user: str, password: str) -> str:
    """A line with bcrypt, the only hash docker-registry takes; by the C library's crypt(3)."""
    library = ctypes.CDLL("libcrypt.so.1")
    library.crypt.restype = ctypes.c_char_p
    made: bytes = library.crypt(password.encode(), b"$2b$05$abcdefghijklmnopqrstuu")
    return f"{user}:{made.decode().replace('$2b$', '$2y$')}\n"


@contextlib.contextmanager
def docker_registry(directory: Path, passwords: str = "") -> Iterator[str]:
    """Its address; with `passwords` (htpasswd lines) it wants basic authentication."""
    directory.mkdir(parents=True, exist_ok=True)
    port = free_port()
    auth = ""
    if passwords:
        (directory / "htpasswd").write_text(passwords)
        auth = f"auth: {{htpasswd: {{realm: test, path: {directory}/htpasswd}}}}\n"
    config = directory / "config.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: error}}\n{auth}"
        f"storage: {{filesystem: {{rootdirectory: {directory}/data}}, delete: {{enabled: true}}}}\n"
        f"http: {{addr: 127.0.0.1:{port}}}\n"
    )
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(["docker-registry", "serve", str(config)], stdout=log, stderr=log)
    try:
        _until_up(port)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def _until_up(port: int) -> None:
    for _ in range(200):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/").close()
            return
        except urllib.error.HTTPError as error:
            error.close()
            return
        except OSError:
            time.sleep(0.05)
    raise AssertionError("docker-registry does not answer")
