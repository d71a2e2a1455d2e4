"""What a real dockerd made and said, for tests where there is none: expected/*.

`DOCKERD=unix:///PATH python -m tests.system.build.peers` asks it anew: it builds each of KINDS (with buildx), reads an
archive that a pydd of this module's own wrote, runs what is in it, and writes one of its own.

    expected/KIND.json           what an image has more than its base, and its configuration without times
    expected/exchange.json       digest of our archive, what dockerd said to it, the image's ID, what it wrote when run
    expected/of-dockerd.tar.gz   the same image as dockerd saves it
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.system import images
from tests.system.build.plugins import Buildx
from tests.system.build.real import recording
from tests.system.build.real.comparing import Image, masked, saved
from tests.system.host import ENVIRONMENT, Host

SOCKET = os.environ.get("DOCKERD", f"unix://{os.environ.get('PEERS', '/var/tmp/peers')}/run/docker.sock")
EXPECTED = Path(__file__).with_name("expected")
EXCHANGED, ARCHIVE, TAG = EXPECTED / "exchange.json", EXPECTED / "of-dockerd.tar.gz", "pyd-tests-exchange:1"
BASE = "pyd-tests-base:latest"

KINDS: dict[str, dict[str, str]] = {
    "web service": {
        "Dockerfile": """ARG PYTHON=3.11
FROM base AS deps
WORKDIR /app
COPY requirements.txt .
RUN --mount=type=cache,target=/root/.cache/pip mkdir -p /venv/lib && cp requirements.txt /venv/lib/ && chmod 750 /venv
FROM base
ARG PYTHON
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 V=${PYTHON%.*}
WORKDIR /app
COPY --from=deps --chown=1000:1000 /venv /venv
COPY --chown=user:user app app
USER user
EXPOSE 8000
HEALTHCHECK --interval=10s CMD wget -q localhost:8000
CMD ["python", "-m", "app"]
""",
        "requirements.txt": "flask\n", "app/__init__.py": "", "app/static/x.css": "a{}",
    },
    "site": {
        "Dockerfile": """FROM base
COPY conf/*.conf /etc/nginx/conf.d/
COPY html /usr/share/nginx/html/
RUN ln -sf /dev/stdout /var/access.log && rm -rf /home
VOLUME ["/var/cache/nginx"]
EXPOSE 80 443
STOPSIGNAL SIGQUIT
ENTRYPOINT ["/entry.sh"]
CMD ["nginx", "-g", "daemon off;"]
""",
        "conf/a.conf": "server{}", "conf/b.conf": "x", "conf/no.txt": "", "html/index.html": "<p>", "html/d/e/f": "",
    },
    "from scratch": {
        "Dockerfile": """FROM base AS build
RUN cp /bin/busybox /out && chmod 4711 /out
FROM scratch
COPY --from=build /out /bin/tool
COPY --from=build /etc/passwd /etc/
COPY <<EOF /etc/motd
built for $TARGETOS
EOF
LABEL org.opencontainers.image.title="tool box" empty=""
ENTRYPOINT ["/bin/tool"]
""",
    },
    "options": {
        "Dockerfile": """FROM base
SHELL ["/bin/sh", "-ec"]
COPY --chmod=640 --chown=5:6 tree /a/
COPY tree/sub/ /b/
COPY [ "tree/two.txt", "tree/sub", "/c/" ]
COPY --link tree/one.md /d/e/
ADD tree/one.md https/
WORKDIR /w
WORKDIR rel
RUN echo $0 > shell; rm /d/e/one.md; mkdir -m 700 -p /p/q; ln /a/one.md /a/hard
ONBUILD RUN echo later
MAINTAINER somebody
ENV OLD style of env
CMD echo shell form
""",
        "tree/one.md": "1", "tree/two.txt": "2", "tree/sub/deep/x": "x",
    },
}  # fmt: skip
_OF_THE_MACHINE = ("bin/tool",)
"""A copy of busybox, which differs between releases."""


def answers() -> bool:
    """Whether there is a dockerd beside us."""
    command = ["docker", "-H", SOCKET, "version"]
    return subprocess.run(command, capture_output=True, check=False, timeout=20).returncode == 0


def expected(kind: str) -> Path:
    return EXPECTED / f"{kind.replace(' ', '-')}.json"


def checkout(kind: str, directory: Path) -> Path:
    """The context, upon BASE, with a fresh clone's modes whatever umask there is."""
    context = directory / kind
    for name, text in KINDS[kind].items():
        path = context / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("FROM base", f"FROM {BASE}"))
    for path in context.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return context


@contextlib.contextmanager
def based(host: str, busybox: Path) -> Iterator[None]:
    """The base is there, under a name of the tests' own, as long as the block lasts."""
    docker = ["docker", "-H", host]
    subprocess.run(
        [*docker, "import", "--change", 'CMD ["sh"]', str(busybox), BASE], check=True, capture_output=True
    )
    try:
        yield
    finally:
        subprocess.run([*docker, "rmi", "-f", BASE], check=False, capture_output=True)


def read(host: str, tag: str, base: Image, kind: str, directory: Path) -> Image:
    """What is compared and recorded."""
    image = saved(host, tag, directory)
    own = image if "FROM scratch" in KINDS[kind]["Dockerfile"] else image.since(base)
    return masked(own, _OF_THE_MACHINE, (), {})


def recorded(kind: str) -> Image:
    found = json.loads(expected(kind).read_text())
    return Image(found["files"], found["configuration"])


def theirs(kind: str, base: Image, directory: Path) -> Image:
    """A kind built by the dockerd, of which nothing is left there."""
    client = directory / "client"
    if not client.exists():
        recording.client_config(client)
    tag = f"pyd-tests-{kind.replace(' ', '-')}:latest"
    docker = ["docker", "-H", SOCKET]
    command = [*docker, "buildx", "build", "--provenance=false", "-t", tag, str(checkout(kind, directory))]
    try:
        subprocess.run(
            command, check=True, capture_output=True, env={**ENVIRONMENT, "DOCKER_CONFIG": str(client)}
        )
        return read(SOCKET, tag, base, kind, directory)
    finally:
        subprocess.run([*docker, "rmi", "-f", tag], check=False, capture_output=True)


# -- archives that both read


def program() -> bytes:
    """A program for amd64 that writes "made" and ends."""
    text = b"made\n"
    code = bytes.fromhex("b801000000bf01000000be00000000ba05000000 0f05 b83c00000031ff0f05".replace(" ", ""))
    start = 0x400000 + 64 + 56
    code = code.replace(b"\xbe\x00\x00\x00\x00", b"\xbe" + struct.pack("<I", start + len(code)))
    size = 64 + 56 + len(code) + len(text)
    head = b"\x7fELF\x02\x01\x01" + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, start, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, 0x400000, 0x400000, size, size, 0x1000)
    return head + segment + code + text


def ours(buildx: Buildx, archive: Path) -> None:
    """An archive of an image that has the same bytes whenever it is built."""
    dockerfile = 'FROM scratch\nCOPY --chmod=755 made /made\nENV A=b\nCMD ["/made"]\n'
    context = buildx.context({"Dockerfile": dockerfile, "made": program()})
    same = "rewrite-timestamp=true,compression=uncompressed,force-compression=true"
    buildx.docker(
        "buildx", "build", "--platform", "linux/amd64", "--provenance=false", "--build-arg",
        "SOURCE_DATE_EPOCH=1600000000", "-t", TAG, "-o", f"type=docker,{same},dest={archive}", str(context),
    )  # fmt: skip


@dataclass(frozen=True)
class Exchange:
    """What became of our archive at dockerd."""

    archive: str
    """Its SHA-256."""
    loaded: str
    id: str
    wrote: str

    @classmethod
    def of(cls, found: dict[str, Any]) -> Exchange:
        return cls(**found)


def exchange(archive: Path, back: Path) -> Exchange:
    """Loads, runs and saves it there; nothing is left."""
    docker = ["docker", "-H", SOCKET]

    def say(*words: str) -> str:
        return subprocess.run([*docker, *words], check=True, capture_output=True, text=True).stdout

    loaded = say("load", "-i", str(archive))
    try:
        id = say("image", "inspect", "--format", "{{.Id}}", TAG).strip()
        wrote = say("run", "--rm", "--network", "none", TAG)
        say("save", "-o", str(back), TAG)
    finally:
        say("rmi", TAG)
    return Exchange(hashlib.sha256(archive.read_bytes()).hexdigest(), loaded, id, wrote)


# -- asking it anew


def main(names: list[str]) -> int:
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        with based(SOCKET, images.busybox(directory)):
            base = saved(SOCKET, BASE, directory)
            for kind in names or KINDS:
                image = theirs(kind, base, directory)
                text = {"configuration": image.document, "files": dict(sorted(image.files.items()))}
                expected(kind).write_text(json.dumps(text, indent=1, sort_keys=True) + "\n")
                print(kind, flush=True)
        if not names:
            _exchange(directory / "pyd")
    return 0


def _exchange(directory: Path) -> None:
    directory.mkdir()
    host = Host(directory)
    host.start()
    try:
        ours(Buildx(host, directory), directory / "ours.tar")
    finally:
        host.undo()
    found = exchange(directory / "ours.tar", directory / "back.tar")
    EXCHANGED.write_text(json.dumps(vars(found), indent=1, sort_keys=True) + "\n")
    ARCHIVE.write_bytes(gzip.compress((directory / "back.tar").read_bytes(), mtime=0))
    print("exchange", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
