"""pyd-oci's modules in one file: used when it fits, renewed when it does not, and never in the way."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCES = Path(__file__).resolve().parents[2] / "daemon"
PROGRAM = """
import sys
sys.path.insert(0, {root!r})
from daemon.runtime.modules import Archive
archive = Archive({root!r})
from daemon.runtime import thing
print(type(thing.__loader__).__name__, thing.VALUE, thing.__file__)
{more}
archive.renew()
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    package = tmp_path / "here" / "daemon" / "runtime"
    package.mkdir(parents=True)
    for name in ("__init__.py", "runtime/__init__.py", "runtime/modules.py"):
        shutil.copy(SOURCES / name, package.parent / name)
    (package / "thing.py").write_text("VALUE = 1\n")
    (package / "other.py").write_text("")
    return tmp_path / "here"


def run(root: Path, more: str = "") -> list[str]:
    program = PROGRAM.format(root=str(root), more=more)
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def archive(root: Path) -> Path:
    (found,) = (root / "daemon/runtime/__pycache__").glob("pyd-oci.*")
    return found


def test_the_second_run_finds_them_there(root: Path) -> None:
    file = str(root / "daemon/runtime/thing.py")
    assert run(root) == ["SourceFileLoader", "1", file]
    assert run(root) == ["Archive", "1", file]


def test_a_changed_source_is_read_and_the_archive_renewed(root: Path) -> None:
    run(root)
    (root / "daemon/runtime/thing.py").write_text("VALUE = 'changed'\n")
    assert run(root)[:2] == ["SourceFileLoader", "changed"]
    assert run(root)[:2] == ["Archive", "changed"]


def test_what_another_command_needs_is_added(root: Path) -> None:
    run(root)
    before = archive(root).read_bytes()
    assert run(root)[0] == "Archive"
    assert archive(root).read_bytes() == before
    run(root, "from daemon.runtime import other")
    assert (
        run(root, "from daemon.runtime import other; print(type(other.__loader__).__name__)")[-1] == "Archive"
    )


@pytest.mark.parametrize("spoil", [b"", b"rubbish", b"i\0\0\0\0"])
def test_one_that_makes_no_sense_is_as_good_as_none(root: Path, spoil: bytes) -> None:
    run(root)
    archive(root).write_bytes(spoil)
    assert run(root)[0] == "SourceFileLoader"
    assert run(root)[0] == "Archive"


def test_one_of_another_place_is_not_used(root: Path) -> None:
    run(root)
    moved = root.with_name("there")
    shutil.copytree(root, moved)
    assert run(moved) == ["SourceFileLoader", "1", str(moved / "daemon/runtime/thing.py")]
