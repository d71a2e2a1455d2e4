"""The same Dockerfiles built by a real BuildKit (in a dockerd beside us): same files, owners, modes, configuration.

Named differences:
- times, and what is derived from them;
- a directory that a RUN only touched (BuildKit's layers have `etc/` because it mounted upon it) is in no layer of
  ours: what the image holds is the same;
- BuildKit adds attestations unless told not to (`--provenance=false` here).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.build.conftest import Builder

PEERS = Path(os.environ.get("PEERS", "/var/tmp/peers"))
SOCKET = f"unix://{PEERS}/run/docker.sock"
IMAGE = "pyd-tests-busybox:latest"

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


@pytest.fixture(scope="module")
def peer(busybox_tar: Path) -> Iterator[str]:
    """A dockerd with BuildKit and buildx inside its own root; skipped where there is none."""
    found = subprocess.run(["docker", "-H", SOCKET, "version"], capture_output=True, check=False, timeout=20)
    if found.returncode or not (PEERS / "usr/libexec/docker/cli-plugins/docker-buildx").exists():
        pytest.skip("no dockerd with buildx beside us")
    command = ["docker", "-H", SOCKET, "import", "--change", 'CMD ["sh"]', str(busybox_tar), IMAGE]
    subprocess.run(command, check=True, capture_output=True)
    yield SOCKET
    subprocess.run(["docker", "-H", SOCKET, "rmi", "-f", IMAGE], capture_output=True, check=False)


def buildx(context: Path, tag: str) -> None:
    inside = PEERS / "tmp" / f"pyd-tests-{os.getpid()}"
    shutil.copytree(context, inside)
    try:
        command = ["chroot", str(PEERS), "docker", "buildx", "build", "--provenance=false", "-q", "-t", tag]
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
        done = subprocess.run(
            [*command, f"/tmp/{inside.name}"], capture_output=True, env=environment, check=False, timeout=120
        )
        assert done.returncode == 0, done.stderr.decode()
    finally:
        shutil.rmtree(inside)


def saved(host: str, tag: str, directory: Path) -> tuple[dict[str, Any], dict[str, tuple[Any, ...]]]:
    """An image's configuration document, and what its layers amount to."""
    archive = directory / f"{tag.replace(':', '-')}.tar"
    subprocess.run(["docker", "-H", host, "save", "-o", str(archive), tag], check=True, capture_output=True)
    files: dict[str, tuple[Any, ...]] = {}
    with tarfile.open(archive) as outer:
        manifest = json.load(outer.extractfile("manifest.json"))[0]  # type: ignore[arg-type]
        document: dict[str, Any] = json.load(outer.extractfile(manifest["Config"]))  # type: ignore[arg-type]
        for name in manifest["Layers"]:
            with tarfile.open(fileobj=outer.extractfile(name)) as layer:
                _apply(layer, files)
    archive.unlink()
    return document, files


def _apply(layer: tarfile.TarFile, files: dict[str, tuple[Any, ...]]) -> None:
    for entry in layer:
        name = entry.name.removeprefix("./").rstrip("/")
        parent, _, last = name.rpartition("/")
        if last.startswith(".wh."):
            gone = f"{parent}/{last[4:]}".lstrip("/") if last != ".wh..wh..opq" else parent
            for path in [
                p for p in files if p.startswith(f"{gone}/") or (p == gone and last != ".wh..wh..opq")
            ]:
                del files[path]
            continue
        content = ""
        if entry.isreg():
            file = layer.extractfile(entry)
            assert file is not None
            content = hashlib.sha256(file.read()).hexdigest()
        if entry.islnk():
            files[name] = files[entry.linkname.removeprefix("./")]
        elif name:
            files[name] = (entry.type, oct(entry.mode), entry.uid, entry.gid, entry.linkname, content)


def comparable(document: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in document.items() if name not in ("created", "rootfs")}
    kept["history"] = [{k: v for k, v in entry.items() if k != "created"} for entry in document["history"]]
    return kept


def differences(ours: Any, theirs: Any, place: str = "") -> list[str]:
    """Where two documents differ, one line each."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        keys = sorted({*ours, *theirs})
        return [
            line for key in keys for line in differences(ours.get(key), theirs.get(key), f"{place}/{key}")
        ]
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        pairs = enumerate(zip(ours, theirs, strict=True))
        return [line for n, (one, other) in pairs for line in differences(one, other, f"{place}/{n}")]
    return [] if ours == theirs else [f"{place}: ours {ours!r}, theirs {theirs!r}"]


@pytest.mark.parametrize("kind", KINDS)
def test_same_image_as_buildkit(builder: Builder, peer: str, kind: str, tmp_path: Path) -> None:
    tag = f"pyd-tests-{kind.replace(' ', '-')}:latest"
    files = KINDS[kind]
    theirs = builder.context(
        {**files, "Dockerfile": files["Dockerfile"].replace("FROM base", f"FROM {IMAGE}")}
    )
    ours = builder.context({**files, "Dockerfile": files["Dockerfile"].replace("FROM base", "FROM busybox")})
    buildx(theirs, tag)
    try:
        builder.build(ours, "-t", tag)
        their_document, their_files = saved(peer, tag, tmp_path)
        our_document, our_files = saved(builder.host.url, tag, tmp_path)
    finally:
        subprocess.run(["docker", "-H", peer, "rmi", "-f", tag], capture_output=True, check=False)
    assert differences(our_files, their_files) == []
    assert differences(comparable(our_document), comparable(their_document)) == []
