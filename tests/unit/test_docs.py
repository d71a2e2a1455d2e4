"""Documents that name things of the code name them truly."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
FOLDERS = ("api", "benchmarks", "client", "daemon", "docs", "storage", "systemd", "tests", ".ci")


def test_the_table_of_operations_is_current() -> None:
    """Regenerate it with: make compat"""
    made = subprocess.run(
        [sys.executable, "docs/compatibility.py"], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert (ROOT / "docs" / "compatibility.md").read_text() == made.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_paths_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []
    named = re.findall(
        rf"(?<![\w/.])((?:{'|'.join(map(re.escape, FOLDERS))})/[\w./*-]*\w|[A-Z]{{4,}}\.md)", text
    )
    assert [path for path in named if not list(ROOT.glob(path))] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tests_that_are_named_exist(page: Path) -> None:
    known = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    named = re.findall(r"`(test_\w+)`", page.read_text())
    assert [name for name in named if f"def {name}(" not in known] == []


def test_make_targets_that_are_named_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        named = set(re.findall(r"`(?:sudo )?make ([a-z]+)`", page.read_text()))
        assert named <= targets, page.name
