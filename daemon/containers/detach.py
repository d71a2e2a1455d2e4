"""Detach key sequences as Docker writes them: `ctrl-p,ctrl-q`, `a,b`, `ctrl-\\` (moby/term)."""

from __future__ import annotations

from storage.errors import InvalidArgument

DEFAULT = b"\x10\x11"
_CONTROL = {"@": 0, "[": 27, "\\": 28, "]": 29, "^": 30, "_": 31}


def detach_keys(text: str | None, *, what: str = "detach") -> bytes:
    """Raises InvalidArgument when a key is none; exec calls them escape keys."""
    if not text:
        return DEFAULT
    try:
        return bytes(_key(key) for key in text.split(","))
    except ValueError:
        raise InvalidArgument(f"Invalid {what} keys ({text}) provided") from None


def _key(key: str) -> int:
    if len(key) == 1 and key.isascii():
        return ord(key)
    name = key.removeprefix("ctrl-")
    if name != key and len(name) == 1:
        if "a" <= name <= "z":
            return ord(name) - ord("a") + 1
        if name in _CONTROL:
            return _CONTROL[name]
    raise ValueError(key)
