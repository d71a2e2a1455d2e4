"""JSON for `pyd-oci` by the interpreter's own C scanner and encoder.

The public `json` package imports `re` and `enum`, for 8 ms: a third of what a whole `runc run` takes. What it adds to
the C code (hooks for numbers, encodings, indentation options) is not needed here.
"""

from __future__ import annotations

from _json import make_encoder, make_scanner, scanstring  # noqa: F401  (scanstring: the scanner's own need)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_SPACE = " \t\n\r"


class _Context:
    """What `make_scanner` reads its settings from (json/scanner.py)."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float
    memo: dict[str, str] = {}


def loads(data: bytes) -> Any:
    """Raises ValueError on anything that is not one JSON document in UTF-8."""
    text = data.decode()
    start = len(text) - len(text.lstrip(_SPACE))
    scan = make_scanner(_Context())  # type: ignore[arg-type]
    try:
        value, end = scan(text, start)
    except SystemError:
        # The scanner raises json.JSONDecodeError, which it expects to be imported already.
        from json import loads as full

        full(text)
        raise
    except StopIteration as stop:
        raise ValueError(f"expecting a value at character {stop.value}") from None
    if text[end:].strip(_SPACE):
        raise ValueError(f"more text after the document, at character {end}")
    return value


def _refuse(value: object) -> Any:
    raise TypeError(f"{value!r} has no JSON form")


def dumps(value: Any) -> str:
    encoder = make_encoder(None, _refuse, _quote, None, ": ", ", ", False, False, False)
    return "".join(encoder(value, 0))


def _quote(text: str) -> str:
    from _json import encode_basestring_ascii

    return encode_basestring_ascii(text)
