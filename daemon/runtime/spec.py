"""Reading an OCI `config.json`: typed look-ups that name the field when it is wrong.

The schema is https://github.com/opencontainers/runtime-spec (config.md, config-linux.md). Unknown members
are ignored, as the specification demands; known ones of a wrong type are a SpecError that spells the
path as a user would: `linux.seccomp.syscalls[3].names`.
"""

from __future__ import annotations

from daemon.runtime.errors import SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Object = dict[str, Any]

_KINDS = {dict: "an object", list: "an array", str: "a string", int: "an integer", bool: "a boolean"}


def _wrong(field: str, kind: type, value: Any) -> SpecError:
    return SpecError(field, f"must be {_KINDS[kind]}, not {value!r:.80}")


def get_object(parent: Object, key: str, field: str) -> Object:
    """The member, or {} when it is absent or null."""
    value = parent.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _wrong(field, dict, value)
    return value


def get_objects(parent: Object, key: str, field: str) -> list[Object]:
    values = get_list(parent, key, field)
    for index, value in enumerate(values):
        if not isinstance(value, dict):
            raise _wrong(f"{field}[{index}]", dict, value)
    return values


def get_list(parent: Object, key: str, field: str) -> list[Any]:
    value = parent.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise _wrong(field, list, value)
    return value


def get_strings(parent: Object, key: str, field: str) -> list[str]:
    values = get_list(parent, key, field)
    for index, value in enumerate(values):
        check_string(value, f"{field}[{index}]")
    return values


def get_string_map(parent: Object, key: str, field: str) -> dict[str, str]:
    values = get_object(parent, key, field)
    for name, value in values.items():
        check_string(value, f"{field}[{name!r}]")
    return values


def get_string(parent: Object, key: str, field: str, default: str = "") -> str:
    value = parent.get(key)
    return default if value is None else check_string(value, field)


def check_string(value: Any, field: str) -> str:
    if not isinstance(value, str):
        raise _wrong(field, str, value)
    if "\0" in value:
        raise SpecError(field, "must not contain a NUL character")
    return value


def get_bool(parent: Object, key: str, field: str) -> bool:
    value = parent.get(key)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise _wrong(field, bool, value)
    return value


def get_int(
    parent: Object, key: str, field: str, *, default: int | None = None, low: int = 0, high: int = 0xFFFFFFFF
) -> int:
    """The member as an integer in low..high; required when there is no default."""
    value = parent.get(key)
    if value is None:
        if default is None:
            raise SpecError(field, "is required")
        return default
    if not isinstance(value, int) or isinstance(value, bool):
        raise _wrong(field, int, value)
    if not low <= value <= high:
        raise SpecError(field, f"{value} is not between {low} and {high}")
    return value


def get_path(parent: Object, key: str, field: str) -> str:
    """A required absolute path."""
    value = get_string(parent, key, field)
    if not value.startswith("/"):
        raise SpecError(field, f"must be an absolute path, not {value!r}")
    return value
