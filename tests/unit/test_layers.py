"""The shape of the code: knowledge points one way, files stay small, names say something."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
OURS = ("api", "client", "daemon", "storage")
STANDARD = set(sys.stdlib_module_names) | {"__future__"}
LONGEST = {"code": 560, "tests": 640}
"""Lines of a file; style asks for about 500."""

MAY_KNOW = {
    "client": {"client"},
    "api": {"api", "daemon", "storage"},
    "daemon": {"daemon", "storage"},
    "storage": {"storage"},
}
"""client → HTTP → api → daemon → storage."""

BARE = {"daemon/runtime": ("daemon.runtime", "daemon.cgroups"), "daemon/cgroups": ("daemon.cgroups",)}
"""What runs in the supervisor and in pyd-oci: the standard library, and these."""

GENERATED = ("_pb2.py",)
"""daemon/build/proto: written by a compiler."""

SAY_NOTHING = re.compile(r"^(utils?|misc|helpers?|common|manager\d|stuff|tools)\.py$")


def sources(*folders: str) -> list[Path]:
    found = sorted(path for folder in folders for path in (REPOSITORY / folder).rglob("*.py"))
    return [path for path in found if not path.name.endswith(GENERATED)]


def name(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def imported(path: Path) -> Iterator[str]:
    """Absolute names of all modules that a file imports, at its top or inside a function."""
    package = path.relative_to(REPOSITORY).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            yield ".".join((*above, *([node.module] if node.module else [])))


def crossing(path: Path) -> list[str]:
    top = path.relative_to(REPOSITORY).parts[0]
    known = (module.split(".")[0] for module in imported(path))
    return [module for module in known if module in OURS and module not in MAY_KNOW[top]]


def beyond_bare(path: Path, allowed: tuple[str, ...]) -> list[str]:
    return [
        module
        for module in imported(path)
        if module.split(".")[0] not in STANDARD
        and not any(module == prefix or module.startswith(f"{prefix}.") for prefix in allowed)
        and module != "daemon"
    ]


@pytest.mark.parametrize("folder", OURS)
def test_imports_point_one_way(folder: str) -> None:
    found = {name(path): crossing(path) for path in sources(folder)}
    assert len(found) > 5
    assert {path: modules for path, modules in found.items() if modules} == {}


@pytest.mark.parametrize("folder", BARE)
def test_the_runtime_needs_the_standard_library_only(folder: str) -> None:
    found = {name(path): beyond_bare(path, BARE[folder]) for path in sources(folder)}
    assert len(found) > 5
    assert {path: modules for path, modules in found.items() if modules} == {}


def test_the_runtime_loads_with_the_bare_interpreter() -> None:
    """What the parser cannot see: -S leaves no site-packages to import from."""
    program = "import sys; sys.path.insert(0, sys.argv[1]); from daemon.runtime import supervisor, command"
    command = [sys.executable, "-I", "-S", "-c", program, str(REPOSITORY)]
    subprocess.run(command, check=True, cwd="/", timeout=30)


def test_a_wrong_import_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "REPOSITORY", tmp_path)
    wrong = tmp_path / "storage" / "deep" / "file.py"
    wrong.parent.mkdir(parents=True)
    wrong.write_text(
        "def f():\n    from daemon.config import DaemonConfig\n    import httpx, storage.errors\n"
    )
    assert crossing(wrong) == ["daemon"]
    assert beyond_bare(wrong, ("storage",)) == ["daemon.config", "httpx"]
    wrong.write_text("from ..errors import PydError\nfrom . import sibling\n")
    assert list(imported(wrong)) == ["storage.errors", "storage.deep"]


def test_files_stay_readable() -> None:
    long = {}
    for kind, folders in (("code", (*OURS, "benchmarks")), ("tests", ("tests",))):
        lines = {name(path): path.read_text().count("\n") for path in sources(*folders)}
        long |= {path: count for path, count in lines.items() if count > LONGEST[kind]}
    assert long == {}


def test_names_say_what_is_inside() -> None:
    files = sources(*OURS, "tests", "benchmarks")
    assert [name(path) for path in files if SAY_NOTHING.match(path.name)] == []


def test_every_module_says_what_it_is() -> None:
    silent = [name(path) for path in sources(*OURS) if path.read_text() and not docstring(path)]
    assert silent == []


def docstring(path: Path) -> str | None:
    return ast.get_docstring(ast.parse(path.read_text()))
