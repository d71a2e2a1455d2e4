"""The attributes of the front end dockerfile.v0, read and checked.

Source: BuildKit frontend/dockerui (config.go, attr.go); the errors are worded as there.
"""

from __future__ import annotations

import csv
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field

from daemon.build.frontend.site import RunOptions
from daemon.images import platforms
from daemon.images.platforms import Platform
from storage.errors import InvalidArgument

ARGUMENT, LABEL, CONTEXT, METADATA, SESSION = (
    "build-arg:",
    "label:",
    "context:",
    "input-metadata:",
    "local-sessionid:",
)
_NETWORKS = {"": "default", "sandbox": "default", "none": "none", "host": "host"}
_MODES = ("", "default", "pull", "local")
_LONGEST_NUMBER = 18
_BOOLEANS = {"1": True, "t": True, "true": True, "0": False, "f": False, "false": False}


@dataclass(frozen=True)
class Options:
    """What a client asks the front end for. `platforms` empty: nobody asked."""

    filename: str = "Dockerfile"
    context: str = ""
    """URL of the context; empty: the client's directory."""
    context_local: str = "context"
    dockerfile_local: str = "dockerfile"
    own_dockerfile: bool = False
    """The Dockerfile is the client's even when the context is not."""
    subdirectory: str = ""
    keep_git: bool | None = None
    target: str = ""
    platforms: tuple[Platform, ...] = ()
    several: bool = False
    arguments: Mapping[str, str | None] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    contexts: Mapping[str, str] = field(default_factory=dict)
    """Named ones: `NAME[::PLATFORM]` to what they are."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Inputs' names to JSON."""
    sessions: Mapping[str, str] = field(default_factory=dict)
    """Names of the client's directories to sessions other than the build's own."""
    no_cache: bool = False
    no_cache_stages: frozenset[str] = frozenset()
    mode: str = "default"
    network: str = "default"
    run: RunOptions = field(default_factory=RunOptions)
    check: str | None = None
    """BUILDKIT_DOCKERFILE_CHECK: in place of the file's own `# check=`."""


def read(opts: Mapping[str, str]) -> Options:
    """InvalidArgument for what means nothing."""
    wanted = tuple(_platform(text) for text in opts.get("platform", "").split(",") if text)
    skipped = opts.get("no-cache")
    network = opts.get("force-network-mode", "")
    if network not in _NETWORKS:
        raise InvalidArgument(f"invalid netmode {network}")
    if opts.get("image-resolve-mode", "") not in _MODES:
        raise InvalidArgument(f"invalid image-resolve-mode: {opts['image-resolve-mode']}")
    keep = opts.get("build-arg:BUILDKIT_CONTEXT_KEEP_GIT_DIR", "").lower()
    return Options(
        filename=opts.get("filename") or "Dockerfile",
        context=opts.get(opts.get("contextkey", "context"), ""),
        context_local="context",
        dockerfile_local=opts.get("dockerfilekey") or "dockerfile",
        own_dockerfile="dockerfilekey" in opts,
        subdirectory=opts.get("contextsubdir", ""),
        keep_git=_BOOLEANS.get(keep),
        target=opts.get("target", ""),
        platforms=wanted,
        several=several(opts),
        arguments=_under(opts, ARGUMENT),
        labels=_under(opts, LABEL),
        contexts=_under(opts, CONTEXT),
        metadata=_under(opts, METADATA),
        sessions=_under(opts, SESSION),
        no_cache=skipped == "",
        no_cache_stages=frozenset(each.lower() for each in (skipped or "").split(",") if each),
        mode=opts.get("image-resolve-mode") or "default",
        network=_NETWORKS[network],
        run=_run(opts),
        check=opts.get("build-arg:BUILDKIT_DOCKERFILE_CHECK"),
    )


def several(opts: Mapping[str, str]) -> bool:
    """Whether the result is one of several platforms (an index), even if there is but one."""
    count = len([text for text in opts.get("platform", "").split(",") if text])
    text = opts.get("build-arg:BUILDKIT_MULTI_PLATFORM") or opts.get("multi-platform", "")
    if not text:
        return count > 1
    wanted = _BOOLEANS.get(text.lower())
    if wanted is None:
        raise InvalidArgument(f"invalid boolean value for multi-platform: {text}")
    if count > 1 and not wanted:
        raise InvalidArgument("conflicting config: returning multiple target platforms is not allowed")
    return wanted


def _under(opts: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {name.removeprefix(prefix): value for name, value in opts.items() if name.startswith(prefix)}


def _platform(text: str) -> Platform:
    try:
        return platforms.parse(text)
    except InvalidArgument as error:
        raise InvalidArgument(f"failed to parse target platform {text}: {error}") from None


def _run(opts: Mapping[str, str]) -> RunOptions:
    return RunOptions(
        hostname=opts.get("build-arg:BUILDKIT_SANDBOX_HOSTNAME") or opts.get("hostname", ""),
        hosts=tuple(_host(each) for each in _fields(opts.get("add-hosts", ""))),
        ulimits=tuple(_ulimit(each) for each in _fields(opts.get("ulimit", ""))),
        cgroup_parent=opts.get("cgroup-parent", ""),
        shm_size=_number("shm size", opts.get("shm-size", "")),
        cache_namespace=opts.get("build-arg:BUILDKIT_CACHE_MOUNT_NS", ""),
    )


def _fields(text: str) -> list[str]:
    try:
        return next(csv.reader([text], strict=True), []) if text else []
    except csv.Error as error:
        raise InvalidArgument(f"invalid list {text!r}: {error}") from None


def _host(text: str) -> str:
    name, equals, address = text.lower().partition("=")
    if not equals:
        raise InvalidArgument(f"failed to parse additional hosts: invalid key-value pair {text}")
    try:
        return f"{name}:{ipaddress.ip_address(address)}"
    except ValueError:
        raise InvalidArgument(f"failed to parse additional hosts: failed to parse IP {address}") from None


def _ulimit(text: str) -> tuple[str, int, int]:
    name, _, limits = text.partition("=")
    soft, _, hard = limits.partition(":")
    values = [soft, hard or soft]
    if not name or not all(_is_limit(value) for value in values):
        raise InvalidArgument(f"failed to parse ulimit: invalid ulimit argument: {text}")
    return name, int(values[0]), int(values[1])


def _is_limit(text: str) -> bool:
    return text.removeprefix("-").isdigit() and len(text) <= _LONGEST_NUMBER


def _number(what: str, text: str) -> int:
    if not text:
        return 0
    if not text.isdigit() or len(text) > _LONGEST_NUMBER:
        raise InvalidArgument(f"failed to parse {what}: {text}")
    return int(text)
