"""What a real BuildKit made of each kind, as tests compare with where there is none: expected/*.json.

`DOCKERD=unix:///PATH python -m tests.system.build.real.recording [KIND ...]` builds them all on that dockerd (with
buildx) and writes the files anew. Recorded are the places that a kind names and the whole configuration.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.system import images
from tests.system.build.plugins import plugins
from tests.system.build.real import building, machine
from tests.system.build.real.comparing import Image, only, saved
from tests.system.build.real.kinds import BUSYBOX, DEBIAN, KINDS, Kind


def read(kind: Kind) -> Image:
    found = json.loads(kind.expected.read_text())
    return Image(found["files"], found["configuration"])


def write(kind: Kind, image: Image) -> None:
    kept = only(image, kind.recorded)
    kind.expected.parent.mkdir(exist_ok=True)
    text = {"configuration": kept.document, "files": dict(sorted(kept.files.items()))}
    kind.expected.write_text(json.dumps(text, indent=1, sort_keys=True) + "\n")


@contextlib.contextmanager
def surroundings(directory: Path) -> Iterator[building.Surroundings]:
    """What the Dockerfiles reach for: a web server, an agent, this machine's package sources."""
    with building.web(directory / "www") as web, building.ssh_agent(directory) as agent:
        yield building.Surroundings({**web, **agent}, machine.secrets(directory))


def bring(host: str, busybox: Path, debian: str) -> dict[str, Image]:
    """Puts the base images into an engine under names of the tests' own, and reads them."""
    docker = ["docker", "-H", host]
    changes = ["--change", 'CMD ["sh"]', "--change", "ENV PATH=/usr/sbin:/usr/bin:/sbin:/bin"]
    subprocess.run([*docker, "import", *changes, str(busybox), BUSYBOX], check=True, capture_output=True)
    subprocess.run([*docker, "pull", "-q", debian], check=True, capture_output=True, timeout=120)
    subprocess.run([*docker, "tag", debian, DEBIAN], check=True, capture_output=True)
    subprocess.run([*docker, "rmi", debian], check=False, capture_output=True)
    return {name: saved(host, name, busybox.parent) for name in (BUSYBOX, DEBIAN)}


def client_config(directory: Path) -> Path:
    """A client's directory with buildx and Compose."""
    directory.mkdir(exist_ok=True)
    (directory / "cli-plugins").symlink_to(plugins())
    return directory


def main(names: list[str]) -> int:
    host = os.environ.get("DOCKERD", "unix:///var/tmp/peers/run/docker.sock")
    chosen = [kind for kind in KINDS if kind.name in names or not (names or kind.peerless)]
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        directory = Path(scratch)
        (directory / "registry").mkdir()
        address = stack.enter_context(images.registry(directory / "registry"))
        bases = bring(host, images.busybox(directory), images.push_debian(address))
        around = stack.enter_context(surroundings(directory))
        door = building.buildx_door(host, client_config(directory / "client"))
        try:
            for kind in chosen:
                tree = building.checkout(kind, directory)
                building.without_syntax(tree)
                door.build(kind, tree, around)
                write(kind, door.image(kind, bases.get(kind.base or ""), around, directory))
                print(kind.name, flush=True)
        finally:
            used = [kind.tag for kind in chosen] + [tag for kind in chosen for _, tag in kind.before]
            door.remove(*used, BUSYBOX, DEBIAN)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
