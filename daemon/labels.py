"""Docker's `label` filter: `KEY` asks that the label is there, `KEY=VALUE` also for its value."""

from __future__ import annotations

from collections.abc import Mapping


def has_label(labels: Mapping[str, str], wanted: str) -> bool:
    key, equals, value = wanted.partition("=")
    return key in labels and (not equals or labels[key] == value)
