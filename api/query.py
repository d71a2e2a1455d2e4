"""Query parameters as Docker reads them, declared once for parsing and for openapi.yaml.

The rules are Go's and moby's (daemon/server/httputils/form.go): a flag is false when it is absent,
empty, `0`, `no`, `false` or `none`, whatever its case, and true otherwise; numbers are Go's decimal;
filters come as `{"name": ["value"]}` or as the older `{"name": {"value": true}}`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_plus

from pydantic_core import from_json

from storage.errors import InvalidArgument

FALSE = frozenset(("", "0", "no", "false", "none"))
INTEGER = re.compile(r"[+-]?[0-9]+\Z")
BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2}).{0,2}")
Filters = dict[str, list[str]]


@dataclass(frozen=True, slots=True)
class Parameter:
    """One query (or header) parameter of an operation; `kind` is its OpenAPI type."""

    name: str
    kind: str = "string"
    text: str = ""
    default: object = None
    place: str = "query"
    required: bool = False

    def describe(self) -> dict[str, Any]:
        schema: dict[str, Any] = {"type": self.kind}
        if self.kind == "array":
            schema["items"] = {"type": "string"}
        if self.default is not None:
            schema["default"] = self.default
        described = {"name": self.name, "in": self.place, "required": self.required, "schema": schema}
        return described | ({"description": self.text} if self.text else {})


def flag(name: str, text: str = "", default: bool = False) -> Parameter:
    return Parameter(name, "boolean", text, default)


def integer(name: str, text: str = "", required: bool = False) -> Parameter:
    return Parameter(name, "integer", text, required=required)


def string(name: str, text: str = "", required: bool = False) -> Parameter:
    return Parameter(name, "string", text, required=required)


def several(name: str, text: str = "") -> Parameter:
    return Parameter(name, "array", text)


FILTERS = Parameter(
    "filters", "string", "JSON: map of filter name to a list of values (map[string][]string)."
)
REGISTRY_AUTH = Parameter(
    "X-Registry-Auth", "string", "base64url of JSON with the registry's credentials.", place="header"
)


class Query:
    """The parsed query string; like Go's url.Values it keeps order and repeated names."""

    __slots__ = ("values",)

    def __init__(self, query_string: bytes) -> None:
        self.values: dict[str, list[str]] = {}
        if query_string:
            self._parse(query_string.decode("latin-1"))

    def _parse(self, query: str) -> None:
        for pair in query.split("&"):
            if not pair:
                continue
            if ";" in pair:
                raise InvalidArgument("invalid semicolon separator in query")
            bad = BAD_ESCAPE.search(pair)
            if bad:
                raise InvalidArgument(f'invalid URL escape "{bad[0]}"')
            name, _, value = pair.partition("=")
            self.values.setdefault(unquote_plus(name), []).append(unquote_plus(value))

    def has(self, name: str) -> bool:
        return name in self.values

    def string(self, name: str) -> str:
        found = self.values.get(name)
        return found[0] if found else ""

    def several(self, name: str) -> list[str]:
        return self.values.get(name, [])

    def flag(self, name: str, default: bool = False) -> bool:
        found = self.values.get(name)
        if not found:
            return default
        return found[0].strip().lower() not in FALSE

    def integer(self, name: str) -> int | None:
        """Go's strconv.Atoi; absent and empty are None."""
        value = self.string(name)
        if not value:
            return None
        if not INTEGER.match(value):
            raise InvalidArgument(f'strconv.Atoi: parsing "{value}": invalid syntax')
        number = int(value)
        if not -(2**63) <= number < 2**63:
            raise InvalidArgument(f'strconv.Atoi: parsing "{value}": value out of range')
        return number

    def dimension(self, name: str, what: str) -> int:
        """A tty's height or width (moby httputils.Uint32Value): required, at most 32 bits, no sign."""
        value = self.string(name)
        reason = ""
        if not value.removeprefix("-").isascii() or not value.removeprefix("-").isdigit():
            reason = "invalid syntax"
        elif value.startswith("-") or int(value) >= 2**32:
            reason = "value out of range"
        if reason:
            raise InvalidArgument(f'invalid resize {what} "{value}": {reason}')
        return int(value)

    def filters(self) -> Filters:
        return parse_filters(self.string("filters"))


def parse_filters(text: str) -> Filters:
    """Both JSON forms of filters; a value that the older form marks false is not asked for."""
    if not text:
        return {}
    try:
        decoded = from_json(text)
    except ValueError:
        raise InvalidArgument("invalid filter") from None
    if decoded is None:
        return {}
    if not isinstance(decoded, dict):
        raise InvalidArgument("invalid filter")
    return {name: _filter_values(values) for name, values in decoded.items()}


def _filter_values(values: object) -> list[str]:
    if values is None:
        return []
    if isinstance(values, dict) and all(isinstance(wanted, bool) for wanted in values.values()):
        return [value for value, wanted in values.items() if wanted]
    if isinstance(values, list) and all(isinstance(value, str) for value in values):
        return list(dict.fromkeys(values))
    raise InvalidArgument("invalid filter")
