"""dockerd's flags and configuration file, into a DaemonConfig.

A setting may come from a flag or from the file, never from both (dockerd refuses it as well: what the
administrator meant cannot be known). One table holds every option: its flag, its key in the file, its
type, and the field of DaemonConfig that it fills. Keys are those of dockerd's daemon.json; a key of
dockerd's that pyd cannot honour is refused by name, not skipped.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from daemon.config import BuilderConfig, CacheRule, DaemonConfig
from storage.errors import InvalidArgument

DEFAULT_CONFIG_FILE = Path("/etc/pyd/daemon.json")
LOG_LEVELS = ("debug", "info", "warn", "error", "fatal")

Convert = Callable[[Any], Any]


def _bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if str(value).lower() in ("1", "t", "true", ""):
        return True
    if str(value).lower() in ("0", "f", "false"):
        return False
    raise ValueError("must be true or false")


def _int(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("must be a whole number")
    return int(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("must be a string")
    return value


def _path(value: Any) -> Path:
    return Path(_text(value)).absolute()


def _paths(value: Any) -> tuple[Path, ...]:
    return tuple(Path(member).absolute() for member in _texts(value))


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError("must be a list of strings")
    return tuple(_text(member) for member in value)


def _pairs(value: Any) -> dict[str, str]:
    """A JSON object of strings, or the flag's list of `name=value`."""
    if isinstance(value, dict):
        return {name: _text(member) for name, member in value.items()}
    pairs = [_text(member).partition("=") for member in value]
    if not all(equals for _, equals, _ in pairs):
        raise ValueError("must be name=value")
    return {name: member for name, _, member in pairs}


def _runtimes(value: Any) -> dict[str, str]:
    """`{"crun": {"path": "/usr/bin/crun"}}` in the file, `crun=/usr/bin/crun` as a flag."""
    if isinstance(value, dict):
        return {name: _text(member["path"]) for name, member in value.items()}
    return _pairs(value)


def _ulimits(value: Any) -> dict[str, tuple[int, int]]:
    """`{"nofile": {"Hard": 64, "Soft": 64}}` in the file, `nofile=64:64` as a flag."""
    if isinstance(value, dict):
        return {name: (_int(limit["Soft"]), _int(limit["Hard"])) for name, limit in value.items()}
    limits = {}
    for name, limit in _pairs(value).items():
        soft, _, hard = limit.partition(":")
        limits[name] = (int(soft), int(hard or soft))
    return limits


def _pools(value: Any) -> tuple[tuple[str, int], ...]:
    """`[{"base": "10.0.0.0/8", "size": 24}]` in the file, `base=10.0.0.0/8,size=24` as a flag."""
    pools = []
    for pool in value:
        parts = pool if isinstance(pool, dict) else dict(part.split("=", 1) for part in pool.split(","))
        pools.append((_text(parts["base"]), int(parts["size"])))
    return tuple(pools)


def _builder(value: Any) -> BuilderConfig:
    """`{"gc": {...}, "entitlements": {...}}` as dockerd has it; JSON as a flag."""
    given = value if isinstance(value, dict) else json.loads(value)
    collection = {name.lower(): each for name, each in given.get("gc", {}).items()}
    return BuilderConfig(
        entitlements=_entitlements(given),
        collects=_bool(collection.get("enabled", True)),
        rules=tuple(_cache_rule(rule) for rule in collection.get("policy") or ()),
        reserved=_bytes(collection.get("defaultreservedspace") or collection.get("defaultkeepstorage") or 0),
        most=_bytes(collection.get("defaultmaxusedspace") or 0),
        free=_bytes(collection.get("defaultminfreespace") or 0),
    )


def _cache_rule(given: Any) -> CacheRule:
    """`{"all": false, "filter": ["unused-for=48h", "type=source.local"], "maxUsedSpace": "10GB"}`"""
    from daemon.build.upkeep.cache import duration

    rule = {name.lower(): value for name, value in given.items()}
    terms, unused_for = [], 0
    for text in rule.get("filter") or ():
        name, _, value = text.partition("=")
        if name in ("unused-for", "until"):
            unused_for = duration(value)
        else:
            terms.append(f"{name}=={value.lstrip('=')}" if value else name)
    return CacheRule(
        all=_bool(rule.get("all", False)),
        filters=(",".join(terms),) if terms else (),
        unused_for=unused_for,
        reserved=_bytes(rule.get("reservedspace") or rule.get("keepstorage") or 0),
        most=_bytes(rule.get("maxusedspace") or 0),
        free=_bytes(rule.get("minfreespace") or 0),
    )


def _entitlements(given: dict[str, Any]) -> frozenset[str]:
    """`{"entitlements": {"network-host": true, "security-insecure": false}}`, dockerd's defaults."""
    wanted = {"network-host": True, "security-insecure": False, **given.get("entitlements", {})}
    unknown = wanted.keys() - {"network-host", "security-insecure"}
    if unknown:
        raise ValueError(f"unknown entitlement {min(unknown)}")
    return frozenset(name.replace("-", ".", 1) for name, on in wanted.items() if _bool(on))


def _bytes(value: Any) -> int:
    """A number of bytes, with docker's suffixes b, k, m, g."""
    text = str(value).strip().lower().removesuffix("b")
    scale = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}.get(text[-1:], 1)
    return int(float(text.rstrip("kmg")) * scale)


def _level(value: Any) -> str:
    if value not in LOG_LEVELS:
        raise ValueError(f"must be one of {', '.join(LOG_LEVELS)}")
    return str(value)


@dataclass(frozen=True, slots=True)
class Option:
    """`key` in the file and `--flag` on the command line; `many` flags may be given several times."""

    field: str
    key: str
    convert: Convert
    flag: str = ""
    many: bool = False
    short: str = ""
    help: str = ""

    @property
    def long(self) -> str:
        return "--" + (self.flag or self.key)


OPTIONS = (
    Option("data_root", "data-root", _path, help="durable state"),
    Option("exec_root", "exec-root", _path, help="state of running containers"),
    Option("hosts", "hosts", _texts, "host", True, "-H", "unix://PATH, tcp://HOST:PORT or fd://"),
    Option("pidfile", "pidfile", _path, short="-p", help="file that holds the daemon's process ID"),
    Option("debug", "debug", _bool, short="-D", help="log everything"),
    Option("log_level", "log-level", _level, short="-l", help=", ".join(LOG_LEVELS)),
    Option("insecure_registries", "insecure-registries", _texts, "insecure-registry", True),
    Option("registry_mirrors", "registry-mirrors", _texts, "registry-mirror", True),
    Option("default_runtime", "default-runtime", _text),
    Option("runtimes", "runtimes", _runtimes, "add-runtime", True, help="name=path of another OCI runtime"),
    Option("bip", "bip", _text, help="address and prefix of the default bridge"),
    Option("default_address_pools", "default-address-pools", _pools, "default-address-pool", True),
    Option("dns", "dns", _texts, many=True),
    Option("dns_search", "dns-search", _texts, many=True),
    Option("dns_options", "dns-opts", _texts, "dns-opt", True),
    Option("userland_proxy", "userland-proxy", _bool),
    Option("ip_forward", "ip-forward", _bool),
    Option("log_driver", "log-driver", _text),
    Option("log_opts", "log-opts", _pairs, "log-opt", True),
    Option("journald_socket", "journald-socket", _path, help="where the journald log driver sends to"),
    Option("cdi_spec_dirs", "cdi-spec-dirs", _paths, "cdi-spec-dir", True, help="where CDI specs lie"),
    Option("default_ulimits", "default-ulimits", _ulimits, "default-ulimit", True),
    Option("default_shm_size", "default-shm-size", _bytes),
    Option("default_cgroupns_mode", "default-cgroupns-mode", _text),
    Option("default_ipc_mode", "default-ipc-mode", _text),
    Option("init", "init", _bool),
    Option("labels", "labels", _texts, "label", True),
    Option("cgroup_parent", "cgroup-parent", _text),
    Option("max_concurrent_downloads", "max-concurrent-downloads", _int),
    Option("max_concurrent_uploads", "max-concurrent-uploads", _int),
    Option("builder", "builder", _builder, help="gc and entitlements of builds, as JSON"),
    Option("shutdown_timeout", "shutdown-timeout", _int),
    Option("live_restore", "live-restore", _bool, help="default true; =false stops containers at the end"),
    Option("seccomp_profile", "seccomp-profile", _path),
    Option("no_new_privileges", "no-new-privileges", _bool),
    Option("tls", "tls", _bool),
    Option("tls_verify", "tlsverify", _bool),
    Option("tls_ca", "tlscacert", _path),
    Option("tls_cert", "tlscert", _path),
    Option("tls_key", "tlskey", _path),
)

ACCEPTED = {
    "storage-driver": "overlay2 is what pyd has",
    "iptables": "pyd's firewall is nftables",
    "ip6tables": "pyd's firewall is nftables",
    "experimental": "there is nothing experimental to switch on",
    "selinux-enabled": "no SELinux labels are set",
    "group": "owner of the socket",
    "features": "a set of named switches",
    "containerd": "pyd needs none",
}
"""Flags a harness gives dockerd that change nothing here, or are used by serve itself."""

RELOADABLE = frozenset(
    (
        "debug",
        "log_level",
        "labels",
        "insecure_registries",
        "registry_mirrors",
        "default_runtime",
        "runtimes",
        "max_concurrent_downloads",
        "max_concurrent_uploads",
        "shutdown_timeout",
        "live_restore",
    )
)
"""Fields that SIGHUP may change, as dockerd's manual lists them."""


@dataclass(frozen=True, slots=True)
class Settings:
    """All that `pydd` was told: the daemon's configuration, and what only serving it needs."""

    config: DaemonConfig
    config_file: Path
    given: dict[str, Any]
    """Fields set by flags."""
    group: str | None = None
    validate_only: bool = False


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser("pydd", description="The pyd daemon.", allow_abbrev=False)
    made.add_argument("--config-file", type=Path, default=None, help=f"default {DEFAULT_CONFIG_FILE}")
    made.add_argument("--validate", action="store_true", help="check the configuration and exit")
    made.add_argument("-v", "--version", action="store_true", help="print the version and exit")
    for option in OPTIONS:
        _add(made, option)
    for key, reason in ACCEPTED.items():
        if key == "group":
            made.add_argument("-G", "--group", default=None, help="group of the unix socket")
        else:
            made.add_argument(f"--{key}", "-s", nargs="?", help=f"accepted; {reason}") if (
                key == "storage-driver"
            ) else made.add_argument(f"--{key}", nargs="?", help=f"accepted; {reason}")
    return made


def _add(made: argparse.ArgumentParser, option: Option) -> None:
    names = [name for name in (option.short, option.long) if name]
    details: dict[str, Any] = {"dest": option.field, "default": None, "help": option.help or None}
    if option.many:
        details["action"] = "append"
    elif option.convert is _bool:
        details |= {"nargs": "?", "const": "true"}
    made.add_argument(*names, **details)


def parse(arguments: Sequence[str]) -> Settings:
    """Flags and file to Settings; raises InvalidArgument with a message for the administrator."""
    parsed = vars(parser().parse_args(list(arguments)))
    given = {
        option.field: _convert(option, parsed[option.field], option.long)
        for option in OPTIONS
        if parsed[option.field] is not None
    }
    named = parsed["config_file"]
    path = named or DEFAULT_CONFIG_FILE
    config = build(given, path, required=named is not None)
    return Settings(config, path, given, parsed["group"], parsed["validate"])


def build(given: dict[str, Any], path: Path, *, required: bool) -> DaemonConfig:
    """The configuration that flags and file make together."""
    from_file = read_file(path, required=required)
    both = sorted(given.keys() & from_file.keys())
    if both:
        raise InvalidArgument(_conflict(both, given, from_file))
    config = replace(DaemonConfig(), **given, **from_file)
    check(config)
    return config


def _conflict(names: list[str], given: dict[str, Any], from_file: dict[str, Any]) -> str:
    keys = {option.field: option.flag or option.key for option in OPTIONS}
    listed = ", ".join(
        f"{keys[name]}: (from flag: {_show(given[name])}, from file: {_show(from_file[name])})"
        for name in names
    )
    return "the following directives are specified both as a flag and in the configuration file: " + listed


def _show(value: Any) -> str:
    return f"[{' '.join(map(str, value))}]" if isinstance(value, tuple) else str(value)


def read_file(path: Path, *, required: bool) -> dict[str, Any]:
    """The fields that a daemon.json sets."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        if required:
            raise InvalidArgument(f"unable to configure the daemon with file {path}: no such file") from None
        return {}
    except OSError as error:
        raise InvalidArgument(f"unable to configure the daemon with file {path}: {error}") from None
    try:
        found = json.loads(text) if text.strip() else {}
    except ValueError as error:
        raise InvalidArgument(f"unable to configure the daemon with file {path}: {error}") from None
    if not isinstance(found, dict):
        raise InvalidArgument(f"unable to configure the daemon with file {path}: not a JSON object")
    known = {option.key: option for option in OPTIONS}
    unknown = sorted(found.keys() - known.keys() - ACCEPTED.keys())
    if unknown:
        raise InvalidArgument(
            "the following directives don't match any configuration option: " + ", ".join(unknown)
        )
    return {
        known[key].field: _convert(known[key], value, f"{path}: {key}")
        for key, value in found.items()
        if key in known
    }


def _convert(option: Option, value: Any, where: str) -> Any:
    try:
        return option.convert(value)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidArgument(f"invalid value {value!r} for {where}: {error}") from None


def check(config: DaemonConfig) -> None:
    """What no single option can know."""
    if config.data_root == config.exec_root:
        raise InvalidArgument(f"data-root and exec-root are the same directory: {config.data_root}")
    for name in ("max_concurrent_downloads", "max_concurrent_uploads"):
        if getattr(config, name) < 1:
            raise InvalidArgument(f"invalid {name.replace('_', ' ')}: {getattr(config, name)}")
    secure = config.tls or config.tls_verify
    if secure and not (config.tls_cert and config.tls_key):
        raise InvalidArgument("TLS needs --tlscert and --tlskey")
    if config.tls_verify and not config.tls_ca:
        raise InvalidArgument("--tlsverify needs --tlscacert")


def reloaded(settings: Settings, running: DaemonConfig) -> DaemonConfig:
    """The running configuration with what SIGHUP may change taken from the file as it is now."""
    fresh = build(settings.given, settings.config_file, required=False)
    changed = {field.name: getattr(fresh, field.name) for field in fields(fresh) if field.name in RELOADABLE}
    return replace(running, **changed)
