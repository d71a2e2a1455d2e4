"""Which of resolv.py's forms a container gets, by what it is attached to."""

from __future__ import annotations

from collections.abc import Sequence

from daemon.config import DaemonConfig
from daemon.containers.wire import HostConfig
from daemon.network import resolv
from daemon.network.model import EtcFiles
from daemon.network.sandboxes import Sandbox


def overrides(config: DaemonConfig, host_config: HostConfig) -> resolv.Overrides:
    """The container's own settings, each falling back on the daemon's."""
    return resolv.Overrides(
        tuple(host_config.get("Dns") or config.dns),
        tuple(host_config.get("DnsSearch") or config.dns_search),
        tuple(host_config.get("DnsOptions") or config.dns_options),
    )


def build(
    config: DaemonConfig,
    sandbox: Sandbox | None,
    *,
    hostname: str,
    domainname: str,
    host_config: HostConfig,
    linked: Sequence[tuple[str, str]],
    host_gateway: str,
) -> EtcFiles:
    """The three files. `linked` are (address, names) of other containers, `HostConfig.Links`."""
    wishes = overrides(config, host_config)
    host, source = resolv.read_host()
    extra = host_config.get("ExtraHosts") or []
    full = hostname or resolv.host_name()
    if sandbox is not None and sandbox.namespace is None:
        plain = not extra and not wishes.servers and not wishes.search and not wishes.options
        base = resolv.read_hosts() if plain else resolv.HOSTS_HEADER
        return EtcFiles(
            hostname=full + "\n",
            hosts=resolv.hosts([], extra, gateway=host_gateway, base=base),
            resolv_conf=resolv.host_mode(host, wishes, source),
        )
    names = resolv.own_names(full, domainname)
    own = [
        (str(one.interface.address.ip), names)
        for one in (sandbox.endpoints if sandbox else ())
        if one.interface
    ]
    form = resolv.internal if sandbox is not None and sandbox.named else resolv.legacy
    return EtcFiles(
        hostname=full + "\n",
        hosts=resolv.hosts([*linked, *own], extra, gateway=host_gateway),
        resolv_conf=form(host, wishes, source),
    )
