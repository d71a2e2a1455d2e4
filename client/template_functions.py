"""The functions that templates call: Go's text/template built-ins and the ones docker adds."""

from __future__ import annotations

import html
import json
import re
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Any


class FunctionError(Exception):
    """A function cannot work with what it was given; the text is Go's."""


class Nil:
    """A pointer that is nil: false, and printed as `<nil>` (None is a missing value, `<no value>`)."""

    def __bool__(self) -> bool:
        return False


NIL = Nil()


def to_text(value: Any) -> str:
    """Go's `%v`."""
    if isinstance(value, str):
        return value
    if value is None:
        return "<no value>"
    if isinstance(value, Nil):
        return "<nil>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Struct):
        return f"{{{' '.join(map(_inside, value.values()))}}}"
    if isinstance(value, Mapping):
        inner = " ".join(f"{key}:{_inside(value[key])}" for key in sorted(value))
        return f"map[{inner}]"
    if isinstance(value, list | tuple):
        return f"[{' '.join(map(_inside, value))}]"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e21:
        return str(int(value))
    return str(value)


def _inside(value: Any) -> str:
    return "<nil>" if value is None else to_text(value)


def type_name(value: Any) -> str:
    """What Go would call the value's type, for error messages."""
    if isinstance(value, Mapping):
        return getattr(value, "kind", "map[string]interface {}")
    names = {
        bool: "bool",
        str: "string",
        int: "int",
        float: "float64",
        list: "[]interface {}",
        tuple: "[]interface {}",
    }
    return names.get(type(value), "nil" if value is None or isinstance(value, Nil) else type(value).__name__)


class Struct(dict[str, Any]):
    """A record of Go: printed as its values, `{a b}`, where a map is printed with its keys."""


def to_json(value: Any) -> str:
    text = json.dumps(_plain(value), separators=(",", ":"), ensure_ascii=False)
    return escape_html(text) if hasattr(value, "kind") else text


def escape_html(text: str) -> str:
    """Go's default in JSON; only `{{json}}` of plain values is free of it."""
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _plain(value: Any) -> Any:
    if isinstance(value, Nil):
        return None
    if isinstance(value, Mapping):
        keys = sorted(value) if hasattr(value, "kind") else list(value)
        return {key: _plain(value[key]) for key in keys if not _is_method(value[key])}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _is_method(value: Any) -> bool:
    return callable(value) and not isinstance(value, str)


def _length(value: Any) -> int:
    try:
        return len(value.encode()) if isinstance(value, str) else len(value)
    except TypeError:
        raise FunctionError(f"len of type {type_name(value)}") from None


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if value is None or isinstance(value, Nil):
            raise FunctionError("index of untyped nil")
        if isinstance(value, Mapping):
            value = value.get(key, "")
        elif isinstance(value, list | tuple | str):
            if not isinstance(key, int):
                raise FunctionError(f"cannot index slice/array with type {type_name(key)}")
            if not 0 <= key < len(value):
                raise FunctionError(f"index out of range: {key}")
            value = value[key]
        else:
            raise FunctionError(f"can't index item of type {type_name(value)}")
    return value


def _slice(value: Any, *bounds: int) -> Any:
    if not isinstance(value, str | list | tuple):
        raise FunctionError(f"can't slice item of type {type_name(value)}")
    low = bounds[0] if bounds else 0
    high = bounds[1] if len(bounds) > 1 else len(value)
    if not 0 <= low <= high <= len(value):
        raise FunctionError(f"index out of range: {high}")
    return value[low:high]


def _equal(first: Any, *others: Any) -> bool:
    if not others:
        raise FunctionError("missing argument for comparison")
    for other in others:
        if (isinstance(first, str) != isinstance(other, str)) and first is not None and other is not None:
            raise FunctionError("incompatible types for comparison")
    return any(first == other for other in others)


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def checked(left: Any, right: Any) -> bool:
        try:
            return compare(left, right)
        except TypeError:
            raise FunctionError("incompatible types for comparison") from None

    return checked


def _join(items: Any, separator: str) -> str:
    if items is None or isinstance(items, Nil):
        return ""
    if isinstance(items, str) or not isinstance(items, list | tuple):
        raise FunctionError(f"wrong type for value; expected []string; got {type_name(items)}")
    return separator.join(map(to_text, items))


def _text(function: Callable[..., str]) -> Callable[..., str]:
    def checked(value: Any, *more: Any) -> str:
        if not isinstance(value, str):
            raise FunctionError(f"wrong type for value; expected string; got {type_name(value)}")
        return function(value, *more)

    return checked


def _pad(text: str, before: int, after: int) -> str:
    return " " * before + text + " " * after if text else text


_VERB = re.compile(r"%([-+# 0]*)(\d*)(?:\.(\d+))?([a-zA-Z%])")


def printf(template: str, *arguments: Any) -> str:
    """Go's Sprintf for the verbs that make sense here: v s d q t x X o b c f g e T."""
    rest = list(arguments)

    def one(match: re.Match[str]) -> str:
        flags, width, precision, verb = match.groups()
        if verb == "%":
            return "%"
        if not rest:
            return f"%!{verb}(MISSING)"
        text = _verb(verb, rest.pop(0), precision, flags)
        size = int(width or 0)
        if "-" in flags:
            return text.ljust(size)
        return text.zfill(size) if "0" in flags and verb in "dxXobfeg" else text.rjust(size)

    text = _VERB.sub(one, template)
    return text + (f"%!(EXTRA {', '.join(f'{type_name(a)}={to_text(a)}' for a in rest)})" if rest else "")


def _verb(verb: str, value: Any, precision: str | None, flags: str) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if verb in "vs":
        text = to_text(value)
        return text[: int(precision)] if precision and verb == "s" else text
    if verb == "q":
        return json.dumps(to_text(value), ensure_ascii=False)
    if verb == "T":
        return type_name(value)
    if verb == "t" and isinstance(value, bool):
        return to_text(value)
    if verb in "xX" and isinstance(value, str):
        return (
            format(int.from_bytes(value.encode(), "big"), f"0{2 * len(value.encode())}{verb}")
            if value
            else ""
        )
    if verb in "dxXobc" and isinstance(value, int) and number:
        return ("+" if "+" in flags and value >= 0 else "") + format(value, verb)
    if verb in "feg" and number:
        return format(float(value), f".{precision or 6}{verb}" if verb != "g" or precision else "g")
    return f"%!{verb}({type_name(value)}={to_text(value)})"


def _print(*values: Any) -> str:
    """Spaces only between operands when neither is a string."""
    text, previous = "", None
    for position, value in enumerate(values):
        if position and not isinstance(value, str) and not isinstance(previous, str):
            text += " "
        text += to_text(value)
        previous = value
    return text


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "json": to_json,
    "lower": _text(str.lower),
    "upper": _text(str.upper),
    "title": _text(lambda text: re.sub(r"(^|\s)(\w)", lambda m: m[1] + m[2].upper(), text)),
    "split": _text(lambda text, separator: text.split(separator) if separator else list(text)),  # type: ignore[arg-type,return-value]
    "join": _join,
    "pad": _text(_pad),
    "truncate": _text(lambda text, size: text[:size]),
    "print": _print,
    "println": lambda *values: " ".join(map(to_text, values)) + "\n",
    "printf": printf,
    "len": _length,
    "index": _index,
    "slice": _slice,
    "not": lambda value: not value,
    "eq": _equal,
    "ne": lambda left, right: not _equal(left, right),
    "lt": _ordered(lambda left, right: bool(left < right)),
    "le": _ordered(lambda left, right: bool(left <= right)),
    "gt": _ordered(lambda left, right: bool(left > right)),
    "ge": _ordered(lambda left, right: bool(left >= right)),
    "html": lambda *values: html.escape(_print(*values)),
    "urlquery": lambda *values: urllib.parse.quote_plus(_print(*values)),
}
"""`and` and `or` are the evaluator's own: they stop at the first operand that decides."""
