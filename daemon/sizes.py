"""Sizes as users write them: `64m`, `1.5GiB`."""

from __future__ import annotations

import re

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)\Z")
_LONGEST_SUFFIX = 3


def ram_in_bytes(text: str) -> int:
    """go-units' RAMInBytes: binary units, whatever is written. Raises ValueError in its words."""
    digits = max((text.rfind(each) for each in "0123456789. "), default=-1)
    if digits < 0:
        raise ValueError(f"invalid size: '{text}'")
    number = text[:digits] if text[digits] == " " else text[: digits + 1]
    if not _NUMBER.match(number):
        raise ValueError(f'strconv.ParseFloat: parsing "{number}": invalid syntax')
    if float(number) < 0:
        raise ValueError(f"invalid size: '{text}'")
    return int(float(number) * _factor(text[digits + 1 :]))


def _factor(suffix: str) -> int:
    if len(suffix) > _LONGEST_SUFFIX:
        raise ValueError(f"invalid suffix: '{suffix}'")
    unit = suffix.lower()
    power = "bkmgtp".find(unit[:1])
    if power < 0 or (unit[1:] not in ("", "b", "ib")) or (unit.startswith("b") and len(unit) > 1):
        raise ValueError(f"invalid suffix: '{unit}'")
    return int(1024**power)
