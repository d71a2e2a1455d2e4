"""Request bodies, read as Go's encoding/json reads them into Docker's structs.

The shapes are TypedDicts (daemon/containers/wire.py, api/models). pydantic's TypeAdapter is not used on
them: it knows neither Go's rules (any case of a key matches, unknown keys are ignored, null is the zero
value, the last duplicate wins) nor Go's messages, which clients and test suites look for. A `Reader` per
type is built at the first use and kept; a body costs one parse by pydantic-core and one walk.
"""

from __future__ import annotations

import json
import types
from collections.abc import Callable
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints, is_typeddict

from pydantic_core import from_json

from storage.errors import InvalidArgument

Reader = Callable[[Any, str], Any]
"""Takes a JSON value and its place ("CreateRequest.HostConfig.Memory"); returns what is stored."""

INT64 = range(-(2**63), 2**63)
PLAIN_INT = frozenset(("StopTimeout", "Retries", "MaximumRetryCount", "OomScoreAdj", "GwPriority", "Count"))
"""Fields whose Go type is int, not int64; only error messages tell them apart."""


def decode(raw: bytes, shape: Any, name: str) -> Any:
    """The body as `shape`, null as {}; raises InvalidArgument with dockerd's text."""
    if not raw.strip(b" \t\r\n"):
        raise InvalidArgument("invalid JSON: got EOF while reading request body")
    try:
        value = from_json(raw, allow_inf_nan=False)
    except ValueError:
        raise InvalidArgument(syntax_message(raw)) from None
    if value is None:
        return {}
    return reader(shape)(value, name)


class Mismatch(InvalidArgument):
    def __init__(self, value: Any, place: str, wanted: str) -> None:
        into = f"Go struct field {place}" if "." in place else "Go value"
        super().__init__(
            f"invalid JSON: json: cannot unmarshal {json_kind(value)} into {into} of type {wanted}"
        )


def json_kind(value: Any) -> str:
    """What Go calls a JSON value; numbers that do not fit are named with their text."""
    match value:
        case bool():
            return "bool"
        case str():
            return "string"
        case int() if value not in INT64:
            return f"number {value}"
        case float():
            return f"number {json.dumps(value)}"
        case int():
            return "number"
        case list():
            return "array"
        case dict():
            return "object"
        case _:
            return "null"


@cache
def go_type(shape: Any) -> str:
    """The Go type that Docker has where we have `shape`."""
    simple = {str: "string", int: "int64", bool: "bool", float: "float64"}
    if shape in simple:
        return simple[shape]
    origin, arguments = get_origin(shape), get_args(shape)
    if origin is list:
        return f"[]{go_type(arguments[0])}"
    if origin is dict:
        return f"map[string]{go_type(arguments[1])}"
    if origin in (Union, types.UnionType):
        return go_type(next(kind for kind in arguments if kind is not type(None)))
    return f"container.{shape.__name__}" if is_typeddict(shape) else "interface {}"


@cache
def reader(shape: Any) -> Reader:
    """The reader of a type; TypedDicts may refer to each other but not to themselves."""
    if shape is Any or shape is object:
        return lambda value, place: value
    if shape in (str, bool):
        return _scalar(shape)
    if shape is int:
        return _integer
    if shape is float:
        return _number
    if is_typeddict(shape):
        return _struct(shape)
    origin, arguments = get_origin(shape), get_args(shape)
    if origin is list:
        return _array(reader(arguments[0]), shape)
    if origin is dict:
        return _map(reader(arguments[1]), shape)
    if origin in (Union, types.UnionType):
        return _union(tuple(kind for kind in arguments if kind is not type(None)))
    raise TypeError(f"no JSON reader for {shape!r}")


def zero(shape: Any) -> Any:
    """What null means as an element of a list; None stays for what Go holds by pointer."""
    return {str: "", int: 0, bool: False, float: 0.0}.get(shape)


def _scalar(kind: type) -> Reader:
    def read(value: Any, place: str) -> Any:
        if type(value) is not kind:
            raise Mismatch(value, place, go_type(kind))
        return value

    return read


def _integer(value: Any, place: str) -> int:
    if type(value) is not int or value not in INT64:
        wanted = "int" if place.rpartition(".")[2] in PLAIN_INT else "int64"
        raise Mismatch(value, place, wanted)
    return value


def _number(value: Any, place: str) -> float:
    if type(value) not in (int, float):
        raise Mismatch(value, place, "float64")
    return float(value)


def _struct(shape: Any) -> Reader:
    fields = {name.lower(): (name, reader(hint)) for name, hint in get_type_hints(shape).items()}

    def read(value: Any, place: str) -> dict[str, Any]:
        if type(value) is not dict:
            raise Mismatch(value, place, go_type(shape))
        result = {}
        for key, member in value.items():
            field = fields.get(key) or fields.get(key.lower())
            if field is not None and member is not None:
                result[field[0]] = field[1](member, f"{place}.{field[0]}")
        return result

    return read


def _array(element: Reader, shape: Any) -> Reader:
    nothing = zero(get_args(shape)[0])

    def read(value: Any, place: str) -> list[Any]:
        if type(value) is not list:
            raise Mismatch(value, place, go_type(shape))
        return [nothing if member is None else element(member, place) for member in value]

    return read


def _map(element: Reader, shape: Any) -> Reader:
    nothing = zero(get_args(shape)[1])

    def read(value: Any, place: str) -> dict[str, Any]:
        if type(value) is not dict:
            raise Mismatch(value, place, go_type(shape))
        return {
            key: nothing if member is None else element(member, f"{place}.{key}")
            for key, member in value.items()
        }

    return read


def _union(kinds: tuple[Any, ...]) -> Reader:
    """`T | None` is T. `list[str] | str` is Docker's StrSlice: a lone string is a list of one."""
    if len(kinds) == 1:
        return reader(kinds[0])
    readers = [reader(kind) for kind in kinds]

    def read(value: Any, place: str) -> Any:
        if str in kinds and type(value) is str:
            return [value]
        return readers[0](value, place)

    return read


def syntax_message(raw: bytes) -> str:
    """Go's complaint about malformed JSON, from Python's."""
    text = raw.decode("utf-8", "replace")
    decoder = json.JSONDecoder()
    start = len(text) - len(text.lstrip(" \t\r\n"))
    try:
        decoder.raw_decode(text, start)
    except json.JSONDecodeError as error:
        return f"invalid JSON: {_complaint(error, text)}"
    except RecursionError:
        return "invalid JSON: exceeded max depth"
    return "unexpected content after JSON"


def _complaint(error: json.JSONDecodeError, text: str) -> str:
    position = error.pos
    if error.msg.startswith("Unterminated string") or not text[position:].strip():
        return "unexpected EOF"
    rest = text[position:].lstrip(" \t\r\n")
    literal = next((word for word in ("true", "false", "null") if rest[0] == word[0]), "")
    if error.msg.startswith("Expecting value") and literal:
        return _literal_complaint(rest, literal)
    if error.msg.startswith("Invalid \\escape"):
        return f"invalid escape sequence `{text[position : position + 2]}` in string"
    if error.msg.startswith("Invalid control character"):
        return f"invalid character {_quoted(text[position])} in string literal"
    return f"invalid character {_quoted(rest[0])} {_where(error.msg, text, position)}"


def _literal_complaint(rest: str, literal: str) -> str:
    for wanted, found in zip(literal, rest, strict=False):
        if wanted != found:
            return f"invalid character {_quoted(found)} in literal {literal} (expecting '{wanted}')"
    return "unexpected EOF"


def _where(message: str, text: str, position: int) -> str:
    if message.startswith("Expecting property name") or "trailing comma" in message:
        return "looking for beginning of object key string"
    if message.startswith("Expecting ':'"):
        return "after object key"
    if message.startswith("Expecting ','"):
        return "after array element" if _inside_array(text[:position]) else "after object key:value pair"
    return "looking for beginning of value"


def _inside_array(before: str) -> bool:
    """Whether the innermost bracket left open is a list's; strings are skipped."""
    open_brackets: list[str] = []
    inside, escaped = False, False
    for character in before:
        if inside:
            inside = escaped or character != '"'
            escaped = character == "\\" and not escaped
        elif character == '"':
            inside = True
        elif character in "[{":
            open_brackets.append(character)
        elif character in "]}" and open_brackets:
            open_brackets.pop()
    return bool(open_brackets) and open_brackets[-1] == "["


def _quoted(character: str) -> str:
    return "'\\''" if character == "'" else f"'{character}'"
