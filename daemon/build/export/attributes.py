"""How attributes of exporters are read: Go's booleans and numbers, the errors worded as BuildKit words them."""

from __future__ import annotations

from collections.abc import Mapping

from daemon import parsebool
from storage.errors import InvalidArgument

_SECOND = 10**9


def boolean(
    attrs: Mapping[str, str],
    name: str,
    default: bool,
    *,
    empty: bool | None = True,
    said: str = "non-bool value specified for {name}",
) -> bool:
    """`empty`: what `name=` means; None: it is an error. InvalidArgument, which begins so, for what is no boolean."""
    text = attrs.get(name)
    if text is None:
        return default
    if text == "" and empty is not None:
        return empty
    if text not in parsebool.TRUE | parsebool.FALSE:
        raise InvalidArgument(f"{said.format(name=name, value=text)}: {parsebool.invalid(text)}")
    return text in parsebool.TRUE


def optional_boolean(attrs: Mapping[str, str], name: str) -> bool | None:
    if name not in attrs:
        return None
    return boolean(attrs, name, False, empty=None, said="non-bool value for {name}: {value}")


def number(attrs: Mapping[str, str], name: str) -> int | None:
    text = attrs.get(name)
    if text is None:
        return None
    try:
        return int(text, 10)
    except ValueError:
        raise InvalidArgument(
            f'non-integer value {text} specified for {name}: strconv.ParseInt: parsing "{text}": invalid syntax'
        ) from None


def epoch(text: str | None, name: str = "source-date-epoch") -> int | None:
    """Seconds since 1970 as nanoseconds; None for none."""
    if not text:
        return None
    if not text.lstrip("-").isdigit() or len(text) > 12:
        raise InvalidArgument(f'invalid {name}: strconv.ParseInt: parsing "{text}": invalid syntax')
    return int(text) * _SECOND
