"""Syslog over TLS by the stock client: what arrives, how it is framed, who is refused; texts are dockerd's."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trustme

from tests.system.host import Host
from tests.system.test_log_drivers import wait_for


@dataclass
class Server:
    """`messages`: one entry for each read of a line; `ends`: connections that were ended by a close_notify."""

    listener: socket.socket
    context: ssl.SSLContext
    messages: list[bytes] = field(default_factory=list)
    ends: list[bool] = field(default_factory=list)

    @property
    def address(self) -> str:
        return "tcp+tls://{}:{}".format(*self.listener.getsockname())

    def run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection = self.listener.accept()[0]
                threading.Thread(target=self._read, args=(connection,), daemon=True).start()

    def _read(self, plain: socket.socket) -> None:
        with contextlib.suppress(OSError), plain:
            secured = self.context.wrap_socket(plain, server_side=True, suppress_ragged_eofs=False)
            with secured, secured.makefile("rb") as file:
                self.messages.extend(file)
                self.ends.append(True)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[trustme.CA, Path]:
    """And its files: ca.pem, other.pem of another one, cert.pem and key.pem of a client."""
    directory, made = tmp_path_factory.mktemp("tls"), trustme.CA()
    made.cert_pem.write_to_path(str(directory / "ca.pem"))
    trustme.CA().cert_pem.write_to_path(str(directory / "other.pem"))
    client = made.issue_cert("client")
    client.private_key_pem.write_to_path(str(directory / "key.pem"))
    client.cert_chain_pems[0].write_to_path(str(directory / "cert.pem"))
    (directory / "junk.pem").write_text("junk")
    return made, directory


@pytest.fixture
def server(request: pytest.FixtureRequest, authority: tuple[trustme.CA, Path]) -> Iterator[Server]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority[0].issue_cert("localhost", "127.0.0.1").configure_cert(context)
    if getattr(request, "param", "") == "mutual":
        authority[0].configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    with socket.create_server(("127.0.0.1", 0)) as listener:
        made = Server(listener, context)
        thread = threading.Thread(target=made.run, daemon=True)
        thread.start()
        yield made
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(timeout=5)


def flags(address: str, **options: str) -> list[str]:
    words = ["--log-driver", "syslog", "--log-opt", f"syslog-address={address}"]
    for name, value in options.items():
        words += ["--log-opt", f"syslog-{name.replace('_', '-')}={value}"]
    return words


@pytest.mark.parametrize("server", ["", "mutual"], indirect=True)
def test_every_line_arrives_encrypted_and_the_stream_is_ended(
    host: Host, server: Server, authority: tuple[trustme.CA, Path]
) -> None:
    files = authority[1]
    options = {
        name: f"{files}/{name[4:].replace('ca_cert', 'ca')}.pem"
        for name in ("tls_ca_cert", "tls_cert", "tls_key")
    }
    host.docker("run", "--name", "c1", *flags(server.address, **options), "busybox", "seq", "20000")
    wait_for(server.messages, 20_000)
    assert [int(m.rpartition(b": ")[2]) for m in server.messages] == list(range(1, 20_001))
    assert host.docker("logs", "--tail", "1", "c1") == "20000\n"
    wait_for(server.ends, 1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("format", "counted"), [("rfc3164", False), ("rfc5424", True), ("rfc5424micro", True)]
)
def test_rfc_5424_has_the_framing_of_rfc_5425(host: Host, server: Server, format: str, counted: bool) -> None:
    """And skip-verify counts whatever its value is."""
    options = flags(server.address, format=format, tls_skip_verify="false")
    host.docker("run", "--rm", *options, "busybox", "echo", "hello")
    wait_for(server.messages, 1)
    head, _, rest = server.messages[0].partition(b" ")
    assert server.messages[0].endswith(b"hello\n")
    assert (head.isdigit() and int(head) == len(rest)) == counted


X509 = "tls: failed to verify certificate: x509: "
PAIR = "Could not load X509 key pair: "


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, f"{X509}certificate signed by unknown authority"),
        ({"ca_cert": "other"}, f"{X509}certificate signed by unknown authority"),
        (
            {"ca_cert": "none"},
            'could not read CA certificate "{}/none.pem": open {}/none.pem: no such file or directory',
        ),
        ({"ca_cert": "junk"}, 'failed to append certificates from PEM file: "{}/junk.pem"'),
        ({"ca_cert": "ca", "cert": "cert"}, f"{PAIR}open : no such file or directory"),
        (
            {"ca_cert": "ca", "cert": "cert", "key": "none"},
            f"{PAIR}open {{}}/none.pem: no such file or directory",
        ),
        (
            {"ca_cert": "ca", "cert": "junk", "key": "key"},
            f"{PAIR}tls: failed to find any PEM data in certificate input",
        ),
    ],
)
def test_refused_at_start(
    host: Host, server: Server, authority: tuple[trustme.CA, Path], options: dict[str, str], text: str
) -> None:
    files = {f"tls_{name}": f"{authority[1]}/{value}.pem" for name, value in options.items()}
    refused = host.try_docker("run", "--rm", *flags(server.address, **files), "busybox", "true")
    expected = "failed to initialize logging driver: " + text.replace("{}", str(authority[1]))
    assert expected in refused.stderr.decode()
    assert server.messages == []


def test_nobody_there_or_somebody_else(
    host: Host, server: Server, authority: tuple[trustme.CA, Path]
) -> None:
    files = {"tls_ca_cert": f"{authority[1]}/ca.pem"}
    nobody = host.try_docker("run", "--rm", *flags("tcp+tls://127.0.0.1:1", **files), "busybox", "true")
    assert "driver: dial tcp 127.0.0.1:1: connect: connection refused" in nobody.stderr.decode()
    port = server.listener.getsockname()[1]
    named = host.docker("run", "--rm", *flags(f"tcp+tls://localhost:{port}", **files), "busybox", "echo", "x")
    assert named == "x\n"
    with socket.create_server(("127.0.0.2", port)) as listener:
        other = Server(listener, server.context)
        threading.Thread(target=other.run, daemon=True).start()
        refused = host.try_docker("run", "--rm", *flags(other.address, **files), "busybox", "true")
        listener.shutdown(socket.SHUT_RDWR)
    assert f"{X509}certificate is not valid for 127.0.0.2" in refused.stderr.decode()
