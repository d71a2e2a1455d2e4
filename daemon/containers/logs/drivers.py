"""Log drivers' options: what `create` refuses, what `start` refuses, each in dockerd's words.

Docker checks names at create and most values only when the logger is made, at start; so do we. Sources: moby
daemon/logger/{factory,loginfo}.go, jsonfilelog, local/config.go, syslog, journald, loggerutils/cache.
"""

from __future__ import annotations

import os
import re
from typing import Any
from urllib.parse import urlsplit

from daemon import parsebool
from daemon.runtime.logfile import LogError, parse_size
from storage.errors import InvalidArgument

DRIVERS = ("json-file", "local", "none", "journald", "syslog")
REMOTE = ("journald", "syslog")
RING_SIZE = 1_000_000
SYSLOG_PORT = "514"
SECURE = "tcp+tls"

_COMMON = ("env", "env-regex", "labels", "labels-regex", "tag")
_FILE = ("max-file", "max-size", "compress")
_SYSLOG = (
    *("syslog-address", "syslog-facility", "syslog-format", "syslog-tls-ca-cert", "syslog-tls-cert"),
    *("syslog-tls-key", "syslog-tls-skip-verify"),
)
_OF_ALL = ("mode", "max-buffer-size", "cache-disabled", *(f"cache-{name}" for name in (*_FILE, *_COMMON)))
_KNOWN = {
    "json-file": (*_FILE, *_COMMON),
    "local": (*_FILE, *_COMMON),
    "journald": _COMMON,
    "syslog": (*_COMMON, *_SYSLOG),
}
_UNKNOWN = {"local": "unknown log opt '{}' for log driver local"}

_FACILITIES = (
    *("kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp"),
    *("", "", "", "", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7"),
)
_FORMATS = ("", "rfc3164", "rfc5424", "rfc5424micro")


def parse_bool(text: str) -> bool:
    """Go's strconv.ParseBool. Raises ValueError in its words."""
    if text in parsebool.TRUE:
        return True
    if text in parsebool.FALSE:
        return False
    raise ValueError(parsebool.invalid(text))


def ram_bytes(text: str) -> int:
    """go-units' RAMInBytes: binary units. Raises ValueError in its words."""
    match = re.match(r"(\d+(?:\.\d+)?) ?([kKmMgGtTpP])?[iI]?[bB]?\Z", text.strip())
    if not match:
        raise ValueError(f"invalid size: '{text}'")
    return int(float(match[1]) * 1024 ** (" kmgtp".index((match[2] or " ").lower())))


# -- create ---------------------------------------------------------------------------------------------


def check_create(driver: str, options: dict[str, str]) -> None:
    """Raises InvalidArgument."""
    if driver == "none":
        return
    _mode(options)
    if options.get("cache-disabled"):
        try:
            parse_bool(options["cache-disabled"])
        except ValueError:
            value = options["cache-disabled"]
            raise InvalidArgument(f"invalid value for option cache-disabled: {value}") from None
    if driver not in DRIVERS:
        raise InvalidArgument(f'error looking up logging plugin {driver}: plugin "{driver}" not found')
    for name in options:
        if name not in _KNOWN[driver] and name not in _OF_ALL:
            text = _UNKNOWN.get(driver, f"unknown log opt '{{}}' for {driver} log driver")
            raise InvalidArgument(text.format(name))
    if driver == "syslog":
        _syslog(options)


def _mode(options: dict[str, str]) -> None:
    mode = options.get("mode", "")
    if mode not in ("", "blocking", "non-blocking"):
        raise InvalidArgument(f"logger: logging mode not supported: {mode}")
    if "max-buffer-size" not in options:
        return
    if mode != "non-blocking":
        raise InvalidArgument("logger: max-buffer-size option is only supported with 'mode=non-blocking'")
    try:
        ram_bytes(options["max-buffer-size"])
    except ValueError as error:
        raise InvalidArgument(f"error parsing option max-buffer-size: {error}") from None


def _syslog(options: dict[str, str]) -> None:
    syslog_address(options.get("syslog-address", ""))
    facility(options.get("syslog-facility", ""))
    if options.get("syslog-format", "") not in _FORMATS:
        raise InvalidArgument("Invalid syslog format")


def facility(text: str) -> int:
    """By name or number, `daemon` unless given. Raises InvalidArgument."""
    if not text:
        return _FACILITIES.index("daemon")
    if text in _FACILITIES:
        return _FACILITIES.index(text)
    if text.isascii() and text.isdigit() and int(text) < len(_FACILITIES):
        return int(text)
    raise InvalidArgument("invalid syslog facility")


def syslog_address(text: str) -> dict[str, str]:
    """{kind, address} of a local socket, {kind, host, port} of a remote one, {} for this machine's own.

    Raises InvalidArgument."""
    if not text:
        return {}
    parts = urlsplit(text)
    if parts.scheme in ("unix", "unixgram"):
        try:
            os.stat(parts.path)
        except OSError as error:
            why = (error.strerror or "").lower()
            raise InvalidArgument(f"stat {parts.path}: {why}") from None
        return {"kind": parts.scheme, "address": parts.path}
    if parts.scheme not in ("udp", "tcp", SECURE):
        raise InvalidArgument(f"unsupported scheme: '{parts.scheme}'")
    try:
        port = str(parts.port or SYSLOG_PORT)
    except ValueError:
        raise InvalidArgument(f"address {parts.netloc}: invalid port") from None
    return {"kind": parts.scheme, "host": parts.hostname or "localhost", "port": port}


def tls_files(options: dict[str, str]) -> dict[str, str]:
    """What daemon/runtime/logtls.py needs; `syslog-tls-skip-verify` counts whatever its value is, as in Docker."""
    names = {"ca": "syslog-tls-ca-cert", "cert": "syslog-tls-cert", "key": "syslog-tls-key"}
    files = {name: options[option] for name, option in names.items() if options.get(option)}
    return files | ({"skip": "1"} if "syslog-tls-skip-verify" in options else {})


# -- start ----------------------------------------------------------------------------------------------


def check_start(driver: str, options: dict[str, str]) -> None:
    """What making the logger would refuse. Raises ValueError with Docker's text."""
    if driver in ("json-file", "local"):
        _patterns(options)
        _file(options, local=driver == "local")
    elif driver in REMOTE:
        _patterns(options)
        if not cache_disabled(options):
            size = len("cache-")
            cached = {k[size:]: v for k, v in options.items() if k.startswith("cache-")}
            _file(cached, local=True)


def cache_disabled(options: dict[str, str]) -> bool:
    return bool(options.get("cache-disabled")) and parse_bool(options["cache-disabled"])


def _patterns(options: dict[str, str]) -> None:
    for name in ("labels-regex", "env-regex"):
        try:
            re.compile(options.get(name, ""))
        except re.error as error:
            raise ValueError(f"error parsing regexp: {error}: `{options[name]}`") from None


def _file(options: dict[str, str], *, local: bool) -> None:
    size = _size(options, local)
    files = _count(options, local)
    compress = local
    if "compress" in options:
        try:
            compress = parse_bool(options["compress"])
        except ValueError as error:
            raise ValueError(
                f"invalid boolean value for compress: {error}" if local else str(error)
            ) from None
    if local and compress and files <= 1:
        raise ValueError("compression cannot be enabled when max file count is 1")
    if not local and compress and (files == 1 or size is None):
        raise ValueError("compress cannot be true when max-file is less than 2 or max-size is not set")


def _size(options: dict[str, str], local: bool) -> int | None:
    text = options.get("max-size")
    if text is None:
        return None
    try:
        return parse_size(text)
    except LogError as error:
        raise ValueError(f"invalid value for max-size: {text}: {error}" if local else str(error)) from None


def _count(options: dict[str, str], local: bool) -> int:
    text = options.get("max-file", "5" if local else "1")
    try:
        count = int(text)
    except ValueError:
        why = f'strconv.Atoi: parsing "{text}": invalid syntax'
        raise ValueError(f"invalid value for max-file: {text}: {why}" if local else why) from None
    if local and count < 0:
        raise ValueError("max-file must not be negative")
    if not local and count < 1:
        raise ValueError("max-file cannot be less than 1")
    return count


# -- tags -------------------------------------------------------------------------------------------------

_FIELD = re.compile(r"\{\{-?\s*(.*?)\s*-?\}\}")
_ENVIRONMENT = re.compile(r"\(\.ExtraAttributes nil\)\.(\w+)\Z")
DEFAULT_TAG = "{{.ID}}"


def tag(template: str, known: dict[str, str], attributes: dict[str, Any]) -> str:
    """A log tag: fields of moby's logger.Info. Raises ValueError in Go's words for one that it has not."""

    def value(match: re.Match[str]) -> str:
        expression = match[1]
        extra = _ENVIRONMENT.match(expression)
        if extra:
            return str(attributes.get(extra[1], "<no value>"))
        name = expression.removeprefix(".")
        if name == expression or name not in known:
            place = match.start() + len("{{")
            raise ValueError(
                f'template: log-tag:1:{place}: executing "log-tag" at <{expression}>: '
                f"can't evaluate field {name} in type *logger.Info"
            )
        return known[name]

    return _FIELD.sub(value, template)
