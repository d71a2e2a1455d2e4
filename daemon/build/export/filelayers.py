"""Lists of contents say by which layer each file came: the file's comment, `layerID: DIGEST`.

A file that a later layer removed is named by the one that brought it, as BuildKit does it; comments that a generator
left stay. Source: BuildKit exporter/containerimage/attestations.go (supplementSBOM).
"""

from __future__ import annotations

import json
import os
import posixpath
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from daemon.build.attest.sbom import CORE, SPDX
from daemon.build.outcome import Attestation
from daemon.system import package_version
from storage.archive.options import is_whiteout

_VERSIONS = ("SPDX-2.1", "SPDX-2.2", "SPDX-2.3")
Layer = tuple[str, Path]
"""(digest as it is exported, directory)"""


def wanted(attestation: Attestation) -> bool:
    """Only the list of the result itself."""
    return (
        attestation.predicate_type == SPDX and posixpath.basename(attestation.path).partition(".")[0] == CORE
    )


def named(attestation: Attestation, layers: Sequence[Layer]) -> Attestation:
    """With layers' digests. `layers`: lowest first. What is no SPDX of a known version stays. Blocking."""
    document = json.loads(attestation.predicate)
    if not isinstance(document, dict) or document.get("spdxVersion") not in _VERSIONS:
        return attestation
    files = [each for each in _dictionaries(document.get("files")) if not each.get("comment")]
    found = find({_path(each) for each in files}, layers)
    for each in files:
        if digest := found.get(_path(each)):
            each["comment"] = f"layerID: {digest}"
    information = document.setdefault("creationInfo", {})
    if isinstance(information, dict) and isinstance(information.setdefault("creators", []), list):
        information["creators"].append(f"Tool: pyd-{package_version()}")
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False)
    return replace(attestation, predicate=text.encode("utf-8", "surrogatepass"))


def find(paths: set[str], layers: Sequence[Layer]) -> dict[str, str]:
    """Paths to the digest of the last layer that has the file."""
    found: dict[str, str] = {}
    missing = set(paths)
    for digest, directory in reversed(layers):
        if not missing:
            break
        here = {path for path in _names(directory) & missing if not _removed(directory, path)}
        found |= dict.fromkeys(here, digest)
        missing -= here
    return found


def _names(directory: Path) -> set[str]:
    """All that is in a layer, links as themselves."""
    top = str(directory)
    found = set()
    for parent, directories, files in os.walk(top):
        begin = parent[len(top) :]
        found |= {f"{begin}/{name}" for name in (*directories, *files)}
    return found


def _removed(directory: Path, path: str) -> bool:
    """What the layer hides. No part of the path is a link: it was walked."""
    return is_whiteout(os.lstat(f"{directory}{path}"))


def _dictionaries(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _path(file: dict[str, Any]) -> str:
    return posixpath.normpath(f"/{file.get('fileName', '')}").replace("//", "/", 1)
