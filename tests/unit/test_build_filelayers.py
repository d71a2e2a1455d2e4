"""Lists of contents that say by which layer a file came."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from daemon.build.export.filelayers import find, named, wanted
from daemon.build.outcome import Attestation

SPDX = "https://spdx.dev/Document"


@pytest.fixture
def layers(tmp_path: Path) -> list[tuple[str, Path]]:
    """one and d/two; d/two and link anew, with a link that leads out; gone removed."""
    for layer, names in (("a", ("one", "d/two", "gone")), ("b", ("d/two", "d/three")), ("c", ())):
        for name in names:
            (tmp_path / layer / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / layer / name).write_text(layer)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "out").symlink_to("/etc")
    if os.geteuid() == 0:
        os.mknod(tmp_path / "c" / "gone", 0o20000, 0)
    return [(f"sha256:{name}", tmp_path / name) for name in "abc"]


def test_the_last_layer_that_has_a_file(layers: list[tuple[str, Path]]) -> None:
    found = find({"/one", "/d/two", "/d/three", "/gone", "/out", "/out/passwd", "/none"}, layers)
    assert found == {
        "/one": "sha256:a",
        "/d/two": "sha256:b",
        "/d/three": "sha256:b",
        "/gone": "sha256:a",
        "/out": "sha256:c",
    }


def said(document: Any, path: str = "sbom.spdx.json", kind: str = SPDX) -> Attestation:
    return Attestation(0, kind, json.dumps(document).encode(), "sbom", path=path)


def test_comments(layers: list[tuple[str, Path]]) -> None:
    document = {
        "spdxVersion": "SPDX-2.3",
        "creationInfo": {"creators": ["Tool: x"]},
        "files": [
            {"fileName": "./one"},
            {"fileName": "d/two", "comment": "mine"},
            {"fileName": "/d/../d/three"},
            {"fileName": "/none"},
            "nonsense",
        ],
    }
    made = json.loads(named(said(document), layers).predicate)
    assert [each.get("comment") for each in made["files"][:4]] == [
        "layerID: sha256:a", "mine", "layerID: sha256:b", None,
    ]  # fmt: skip
    first, second = made["creationInfo"]["creators"]
    assert first == "Tool: x" and second.startswith("Tool: pyd-")


@pytest.mark.parametrize(
    "document", [[], {"files": 1}, {"spdxVersion": "SPDX-3.0", "files": [{"fileName": "/one"}]}]
)
def test_what_is_not_understood_stays(document: Any, layers: list[tuple[str, Path]]) -> None:
    given = said(document)
    assert named(given, layers) is given


def test_only_the_list_of_the_result() -> None:
    assert wanted(said({}))
    assert not wanted(said({}, "sbom-base.spdx.json"))
    assert not wanted(said({}, kind="https://slsa.dev/provenance/v1"))
