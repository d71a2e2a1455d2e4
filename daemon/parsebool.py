"""Go's strconv.ParseBool: what docker's options, labels and attributes say yes and no with."""

from __future__ import annotations

TRUE = frozenset(("1", "t", "T", "TRUE", "true", "True"))
FALSE = frozenset(("0", "f", "F", "FALSE", "false", "False"))


def invalid(text: str) -> str:
    """What Go says of a text that is in neither."""
    return f'strconv.ParseBool: parsing "{text}": invalid syntax'
