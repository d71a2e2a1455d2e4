"""The container's configuration: what the user asked over what the image says (moby image.Merge)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from daemon.containers.wire import Config
from storage.errors import InvalidArgument

DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def words(value: list[str] | str | None) -> list[str]:
    """Cmd and Entrypoint may come as one string: Docker takes it as a single word."""
    if value is None:
        return []
    return [value] if isinstance(value, str) else list(value)


def merged(user: Config, image: dict[str, Any]) -> Config:
    """A new Config; `image` is the `config` member of an OCI image configuration, or {}."""
    result = Config(**user)
    result["Env"] = _environment(user.get("Env") or [], image.get("Env") or []) or user.get("Env")
    result["Labels"] = {**(image.get("Labels") or {}), **(user.get("Labels") or {})}
    for field in ("User", "WorkingDir", "StopSignal"):
        if not user.get(field) and image.get(field):
            result[field] = image[field]
    for field in ("ExposedPorts", "Volumes"):
        both = {**(image.get(field) or {}), **(user.get(field) or {})}  # type: ignore[dict-item]
        if both:
            result[field] = both  # type: ignore[literal-required]
    _command(result, user, image)
    _healthcheck(result, user, image)
    if not result.get("Shell") and image.get("Shell"):
        result["Shell"] = image["Shell"]
    return result


def _environment(user: list[str], image: list[str]) -> list[str]:
    names = {entry.partition("=")[0] for entry in user}
    return user + [entry for entry in image if entry.partition("=")[0] not in names]


def _command(result: Config, user: Config, image: dict[str, Any]) -> None:
    entrypoint, command = words(user.get("Entrypoint")), words(user.get("Cmd"))
    if not entrypoint:
        if not command:
            command = words(image.get("Cmd"))
        # [""] resets the image's entrypoint, which an absent one does not
        if user.get("Entrypoint") is None or user.get("Entrypoint") == []:
            entrypoint = words(image.get("Entrypoint"))
    if entrypoint == [""]:
        entrypoint = []
    result["Entrypoint"] = entrypoint or None
    result["Cmd"] = command or None


def _healthcheck(result: Config, user: Config, image: dict[str, Any]) -> None:
    inherited = image.get("Healthcheck")
    if not inherited:
        return
    mine = user.get("Healthcheck")
    if not mine:
        result["Healthcheck"] = inherited
        return
    combined = dict(inherited)
    combined |= {key: value for key, value in mine.items() if value}
    result["Healthcheck"] = combined  # type: ignore[typeddict-item]


def command_line(config: Config) -> list[str]:
    """What will be executed. Raises InvalidArgument when there is nothing."""
    argv = words(config.get("Entrypoint")) + words(config.get("Cmd"))
    if not argv:
        raise InvalidArgument("no command specified")
    return argv


def environment(config: Config, *, hostname: str, home: str, linked: Sequence[str] = ()) -> list[str]:
    """The process's variables: Docker's defaults first, then those of links, the configuration's over them."""
    defaults = [DEFAULT_PATH, f"HOSTNAME={hostname}"]
    if config.get("Tty"):
        defaults.append("TERM=xterm")
    defaults += linked
    return replaced_environment(defaults, config.get("Env") or [], home)


def replaced_environment(defaults: list[str], overrides: list[str], home: str) -> list[str]:
    """Overrides replace in place; `NAME` without `=` removes; HOME last unless given (as runc)."""
    values: dict[str, str | None] = {}
    for entry in (*defaults, *overrides):
        name, equals, value = entry.partition("=")
        values[name] = value if equals else None
    if values.get("HOME") is None:
        values["HOME"] = home
    return [f"{name}={value}" for name, value in values.items() if value is not None]
