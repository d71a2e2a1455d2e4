"""The front end of frontend_program.py as an image: this machine's Python with what the program imports, no more.

No interpreter of a distribution need be fetched: which files that are is what a run of the program says that it has
loaded, modules and shared libraries, and they lie in the image where they lie here.
"""

from __future__ import annotations

import functools
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

from tests.system.host import REPOSITORY

PROGRAM = Path(__file__).with_name("frontend_program.py")
CAPS = "moby.buildkit.frontend.inputs,moby.buildkit.frontend.subrequests,moby.buildkit.frontend.contexts"
_PLACE = "/frontend.py"
_LOADED = """
import encodings.idna, json, pathlib, runpy, sys
runpy.run_path(sys.argv[1], run_name="loaded")
files = {getattr(each, "__file__", None) for each in list(sys.modules.values())}
libraries = {line.split()[-1] for line in open("/proc/self/maps") if line.split()[-1].startswith("/")}
beside = {each for name in libraries if ".so" in name for each in pathlib.Path(name).parent.glob("*.so*")}
names = {str(each) for each in beside if each.is_symlink() and str(each.resolve()) in libraries}
print(json.dumps([sys.path, sorted(f for f in files | libraries | names if f and f.startswith("/"))]))
"""


@functools.cache
def _loaded() -> tuple[list[str], list[str]]:
    """sys.path, and every file that the program has in use."""
    command = [sys.executable, "-c", _LOADED, str(PROGRAM)]
    found = subprocess.run(command, capture_output=True, check=True, cwd=REPOSITORY).stdout
    path, files = json.loads(found)
    return path, files


def archive() -> bytes:
    """A root file system, as `docker import` takes it."""
    _, files = _loaded()
    real = Path(sys.executable).resolve()
    loaders = [str(path) for path in Path("/lib64").glob("ld-linux*")] + [
        str(path) for path in Path("/lib").glob("ld-linux*")
    ]
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as packed:
        for name in sorted({*files, *loaders, str(real)}):
            packed.add(str(Path(name).resolve()), name.lstrip("/"), recursive=False)
        packed.add(PROGRAM, _PLACE.lstrip("/"))
        for directory in ("tmp", "proc", "sys", "dev", "etc", "run"):
            entry = tarfile.TarInfo(directory)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            packed.addfile(entry)
    return out.getvalue()


def make(url: str, name: str, *changes: str) -> str:
    """The image `name` at the daemon of `url`; `changes`: instructions as `docker import --change` takes them."""
    path, _ = _loaded()
    real = Path(sys.executable).resolve()
    environment = ":".join(each for each in path if each)
    wanted = (
        f"ENTRYPOINT {json.dumps([str(real), '-B', _PLACE])}",
        f"ENV PYTHONPATH={environment}:{REPOSITORY} FRONT=end",
        f"LABEL moby.buildkit.frontend.caps={CAPS}",
        *changes,
    )
    command = ["docker", "-H", url, "import", *(word for each in wanted for word in ("-c", each)), "-", name]
    result = subprocess.run(command, input=archive(), capture_output=True, check=False)
    assert result.returncode == 0, result.stderr.decode()
    return name
