"""Attestations as in-toto statements: what is said, and of what (BuildKit exporter/attestation/make.go)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from urllib.parse import quote

from daemon.build.outcome import Attestation
from daemon.images.manifests import encode
from daemon.images.platforms import Platform
from daemon.images.reference import Reference

STATEMENT = "https://in-toto.io/Statement/v0.1"
Subject = tuple[str, Mapping[str, str]]
"""(name, {algorithm: hex})"""


def image_subjects(names: Sequence[Reference], platform: Platform, digest: str) -> list[Subject]:
    """An image by all its names, as package URLs."""
    algorithm, _, encoded = digest.partition(":")
    return [(package_url(name, platform), {algorithm: encoded}) for name in names]


def package_url(name: Reference, platform: Platform) -> str:
    """pkg:docker/NAME@TAG?platform=... (github.com/package-url/purl-spec, type docker)."""
    path = "/".join(quote(part, safe=":") for part in name.familiar_name.split("/"))
    version = f"@{quote(name.tag, safe=':')}" if name.tag else ""
    qualifiers = [f"digest={quote(name.digest, safe=':')}"] if name.digest else []
    qualifiers.append(f"platform={quote(str(platform), safe=':')}")
    return f"pkg:docker/{path}{version}?{'&'.join(qualifiers)}"


def statement(attestation: Attestation, subjects: Sequence[Subject]) -> bytes:
    """The document, compact. Blocking: contents of large images are many megabytes."""
    said = attestation.subjects or subjects
    return encode(
        {
            "_type": STATEMENT,
            "predicateType": attestation.predicate_type,
            "subject": [{"name": name, "digest": dict(digest)} for name, digest in said],
            "predicate": json.loads(attestation.predicate),
        }
    )
