"""Which attestations a client wants.

Source: BuildKit frontend/attestations/parse.go, control/control.go (Solve); docker's default of `version` is v0.2.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping

from daemon import parsebool
from daemon.images import reference
from storage.errors import InvalidArgument

_PREFIXES = ("attest:", "build-arg:BUILDKIT_ATTEST_")
SCANNER = "docker/buildkit-syft-scanner:stable-1"
VERSIONS = ("v0.2", "v1")


def parse(attributes: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """{"provenance": {"version": ..., "mode": ...}, "sbom": {"generator": ..., parameters}}, those that are wanted.

    InvalidArgument for another kind, an unknown version or mode, a generator that is no image's name.
    """
    found: dict[str, dict[str, str]] = {}
    for prefix in _PREFIXES:
        for name, text in attributes.items():
            kind = name.removeprefix(prefix).lower()
            if name.startswith(prefix) and kind not in found:
                found[kind] = _fields(text)
    for kind, fields in found.items():
        _check(kind, fields)
    return found


def true(text: str | None) -> bool:
    """Go's strconv.ParseBool, of which nobody hears when it fails."""
    return text in parsebool.TRUE


def _fields(text: str) -> dict[str, str]:
    try:
        words = next(csv.reader([text], strict=True), [])
    except csv.Error as error:
        raise InvalidArgument(f"failed to parse attestation: {error}") from None
    return {key: value for key, _, value in (word.partition("=") for word in words) if key}


def _check(kind: str, fields: dict[str, str]) -> None:
    if kind == "sbom":
        generator = fields.setdefault("generator", SCANNER)
        if not generator:
            raise InvalidArgument("sbom generator cannot be empty")
        try:
            fields["generator"] = str(reference.parse(generator).with_default_tag())
        except InvalidArgument as error:
            raise InvalidArgument(f"failed to parse sbom generator {generator}: {error}") from None
    elif kind == "provenance":
        if fields.setdefault("version", VERSIONS[0]) not in VERSIONS:
            raise InvalidArgument(f"invalid provenance SLSA version: {fields['version']}")
        if fields.get("mode", "max") not in ("min", "max", "full"):
            raise InvalidArgument(f'invalid mode "{fields["mode"]}"')
    else:
        raise InvalidArgument(f'unknown attestation type "{kind}"')
