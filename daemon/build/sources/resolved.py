"""What a name of an image stands for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ResolvedImage:
    """What an image reference means now."""

    identifier: str
    """docker-image://NAME@DIGEST"""
    config: Mapping[str, Any]
