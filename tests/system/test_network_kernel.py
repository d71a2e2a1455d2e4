"""The network on the real kernel: who reaches whom, under which address, and what is left afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import statistics
import struct
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from daemon.network import dnswire
from daemon.network.model import AttachRequest
from storage.errors import Forbidden, Internal, InvalidArgument
from tests.system import network_rig as rig
from tests.system.network_rig import Daemon, Outside, ask, ask_udp, echoing, listening, sh, unreachable


@pytest.fixture
async def daemon() -> AsyncIterator[Daemon]:
    async with rig.daemon() as made:
        yield made


@pytest.fixture
def outside() -> Iterator[Outside]:
    with rig.outside() as made:
        yield made


# the default bridge


async def test_a_container_has_address_route_and_loopback(daemon: Daemon) -> None:
    one = await daemon.container()
    gateway = daemon.service.inspect("bridge")["IPAM"]["Config"][0]["Gateway"]
    assert f"default via {gateway} dev eth0" in sh("ip", "route", netns=one.netns)
    links = sh("ip", "-o", "address", netns=one.netns)
    assert f"{one.address()}/16" in links
    assert "127.0.0.1/8" in links
    assert "fe80" not in links


async def test_the_outside_sees_the_host(daemon: Daemon, outside: Outside) -> None:
    one = await daemon.container()
    async with listening(outside.netns, outside.address, 8000):
        assert await ask(one.netns, outside.address, 8000) == outside.host


async def test_containers_of_a_bridge_reach_each_other(daemon: Daemon) -> None:
    one, two = await daemon.container(), await daemon.container(name="two")
    async with listening(one.netns, "0.0.0.0", 80):
        assert await ask(two.netns, one.address(), 80) == two.address()


async def test_the_host_reaches_a_container(daemon: Daemon) -> None:
    one = await daemon.container()
    async with listening(one.netns, "0.0.0.0", 80):
        assert await ask(None, one.address(), 80)


async def test_a_published_port_is_reached_from_everywhere(daemon: Daemon, outside: Outside) -> None:
    one = await daemon.container(bindings={"80/tcp": [{"HostPort": ""}]})
    sibling = await daemon.container(name="sibling")
    port = one.port()
    gateway = daemon.service.inspect("bridge")["IPAM"]["Config"][0]["Gateway"]
    async with listening(one.netns, "0.0.0.0", 80):
        assert await ask(None, "127.0.0.1", port) == gateway
        assert await ask(None, outside.host, port) == outside.host
        assert await ask(None, "::1", port) == gateway, "by the userland proxy"
        assert await ask(outside.netns, outside.host, port) == outside.address, "clients keep their address"
        assert await ask(sibling.netns, outside.host, port) == gateway, "hairpin to a neighbour"
        assert await ask(one.netns, outside.host, port) == gateway, "hairpin to itself"
    await one.stop()
    for host in ("127.0.0.1", "::1", outside.host):
        assert await unreachable(None, host, port)


async def test_a_published_udp_port(daemon: Daemon, outside: Outside) -> None:
    one = await daemon.container(bindings={"53/udp": [{"HostPort": ""}]})
    port = one.port("53/udp")
    async with echoing(one.netns, 53):
        assert await ask_udp(None, "127.0.0.1", port)
        assert await ask_udp(None, "::1", port), "by the userland proxy"
        assert await ask_udp(outside.netns, outside.host, port) == outside.address.encode()


async def test_a_udp_client_that_never_pauses_follows_to_the_next_container(daemon: Daemon) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setblocking(False)
        bindings = {"53/udp": [{"HostPort": ""}]}
        for _ in range(2):
            one = await daemon.container(bindings=bindings)
            bindings = {"53/udp": [{"HostPort": str(one.port("53/udp"))}]}
            client.connect(("127.0.0.1", one.port("53/udp")))
            async with echoing(one.netns, 53), asyncio.timeout(2):
                client.send(b"?")
                assert await asyncio.get_running_loop().sock_recv(client, 100)
            await one.stop()
            await daemon.container(name="other")  # so that the next one has another address
            with contextlib.suppress(ConnectionRefusedError):
                client.send(b"nobody is there")
            await asyncio.sleep(0.05)
            with contextlib.suppress(OSError):
                client.recv(100)


async def test_a_port_published_on_one_address_is_not_on_others(daemon: Daemon, outside: Outside) -> None:
    one = await daemon.container(bindings={"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]})
    async with listening(one.netns, "0.0.0.0", 80):
        assert await ask(None, "127.0.0.1", one.port())
        assert await unreachable(outside.netns, outside.host, one.port())
    assert one.ports == {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(one.port())}]}


async def test_unpublished_ports_are_closed_to_who_routes_to_the_container(
    daemon: Daemon, outside: Outside
) -> None:
    one = await daemon.container(bindings={"80/tcp": [{"HostPort": ""}]})
    sh("ip", "route", "add", "default", "via", outside.host, netns=outside.netns)
    async with listening(one.netns, "0.0.0.0", 81), listening(one.netns, "0.0.0.0", 80):
        assert await unreachable(outside.netns, one.address(), 81)
        assert await ask(outside.netns, outside.host, one.port()), "the way there is not the reason"


async def test_a_container_does_not_reach_the_host_s_loopback(daemon: Daemon) -> None:
    one = await daemon.container()
    gateway = daemon.service.inspect("bridge")["IPAM"]["Config"][0]["Gateway"]
    sh("ip", "address", "delete", "127.0.0.1/8", "dev", "lo", netns=one.netns)
    sh("ip", "route", "add", "127.0.0.0/8", "via", gateway, netns=one.netns)
    sh("sysctl", "-qw", "net.ipv4.conf.eth0.route_localnet=1", netns=one.netns)
    async with listening(None, "127.0.0.1", 0) as port:
        assert await unreachable(one.netns, "127.0.0.1", port)
        sh("nft", "flush", "chain", "inet", daemon.config.firewall_table, "guard")
        assert await ask(one.netns, "127.0.0.1", port), "the guard is what keeps it out"


# ports that cannot be had


async def test_a_port_conflict_is_docker_s_and_leaves_nothing(daemon: Daemon) -> None:
    await daemon.filled()
    one = await daemon.container(bindings={"80/tcp": [{"HostPort": ""}]})
    await daemon.filled()
    before = {file.name for file in daemon.netns.iterdir()}
    bindings = {"80/tcp": [{"HostPort": ""}], "81/tcp": [{"HostPort": str(one.port())}]}
    with pytest.raises(Internal) as caught:
        await daemon.container(name="late", bindings=bindings)
    assert re.fullmatch(
        r"driver failed programming external connectivity on endpoint late \([0-9a-f]{64}\): "
        rf"Bind for 0\.0\.0\.0:{one.port()} failed: port is already allocated",
        str(caught.value),
    )
    await daemon.filled()
    await rig.until(lambda: len(list(daemon.netns.iterdir())) == len(before))
    assert list(daemon.service.inspect("bridge")["Containers"]) == [one.id]
    assert list(daemon.records.load("sandboxes")) == [one.id]


async def test_another_program_s_port_is_refused_and_ours_is_held(daemon: Daemon) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        bindings = {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(port)}]}
        with pytest.raises(Internal, match="address already in use"):
            await daemon.container(bindings=bindings)
    one = await daemon.container(bindings=bindings)
    with pytest.raises(OSError, match="Address already in use"):
        socket.create_server(("127.0.0.1", port))
    await one.stop()
    socket.create_server(("127.0.0.1", port)).close()


# user-defined networks


async def test_networks_are_isolated_from_each_other(daemon: Daemon, outside: Outside) -> None:
    await daemon.service.create({"Name": "n1"})
    inner = await daemon.container("n1", bindings={"80/tcp": [{"HostPort": ""}]})
    neighbour, stranger = await daemon.container("n1", "neighbour"), await daemon.container(name="stranger")
    async with listening(inner.netns, "0.0.0.0", 80):
        assert await ask(neighbour.netns, inner.address("n1"), 80) == neighbour.address("n1")
        assert await unreachable(stranger.netns, inner.address("n1"), 80)
        assert await ask(stranger.netns, outside.host, inner.port()), "but what is published is for all"


async def test_an_internal_network_has_no_way_out(daemon: Daemon, outside: Outside) -> None:
    await daemon.service.create({"Name": "in", "Internal": True})
    one, two = await daemon.container("in", "one"), await daemon.container("in", "two")
    async with listening(outside.netns, outside.address, 8000), listening(two.netns, "0.0.0.0", 80):
        assert await ask(one.netns, two.address("in"), 80)
        assert await unreachable(one.netns, outside.address, 8000)
        sh(
            "ip",
            "route",
            "add",
            "default",
            "via",
            f"{two.address('in').rpartition('.')[0]}.1",
            netns=one.netns,
        )
        assert await unreachable(one.netns, outside.address, 8000), "not even with a route of its own"


async def test_without_icc_containers_do_not_meet(daemon: Daemon, outside: Outside) -> None:
    await daemon.service.create({"Name": "n", "Options": {"com.docker.network.bridge.enable_icc": "false"}})
    one, two = await daemon.container("n", "one"), await daemon.container("n", "two")
    bridge = f"br-{daemon.service.inspect('n')['Id'][:12]}"
    assert sh("bridge", "-d", "link", "show", "master", bridge).count("isolated on") == 2
    async with listening(one.netns, "0.0.0.0", 80), listening(outside.netns, outside.address, 8000):
        assert await unreachable(two.netns, one.address("n"), 80)
        assert await ask(two.netns, outside.address, 8000) == outside.host


async def test_joining_and_leaving_a_running_container(daemon: Daemon) -> None:
    await daemon.service.create({"Name": "zz"})
    one = await daemon.container(bindings={"80/tcp": [{"HostPort": ""}]})
    port = one.port()
    await daemon.service.connect(one.id, AttachRequest("zz", "web"))
    assert "eth1" in sh("ip", "-o", "link", netns=one.netns)
    async with listening(one.netns, "0.0.0.0", 80):
        await daemon.service.disconnect(one.id, "bridge")
        assert "eth0" not in sh("ip", "-o", "link", netns=one.netns)
        assert one.port() == port
        for host in ("127.0.0.1", "::1"):
            assert await ask(None, host, port), "the port follows to the network that is left"
    with pytest.raises(Internal, match="is not connected to network bridge"):
        await daemon.service.disconnect(one.id, "bridge")
    with pytest.raises(Forbidden, match=r'has active endpoints \(name:"web" id:"[0-9a-f]{12}"\)'):
        await daemon.service.remove("zz")
    assert [(kind, action) for kind, action, *_ in daemon.events] == [
        ("network", "create"),
        ("network", "connect"),
        ("network", "connect"),
        ("network", "disconnect"),
    ]


async def test_a_chosen_address_and_mac(daemon: Daemon) -> None:
    config = [{"Subnet": "10.213.77.0/24"}]
    await daemon.service.create({"Name": "n", "IPAM": {"Config": config}})
    endpoint = {"IPAMConfig": {"IPv4Address": "10.213.77.9"}, "MacAddress": "02:00:00:00:00:09"}
    one = await daemon.container("n", endpoint=endpoint)
    assert "10.213.77.9/24" in sh("ip", "-o", "address", netns=one.netns)
    assert "02:00:00:00:00:09" in sh("ip", "-o", "link", netns=one.netns)
    with pytest.raises(Forbidden, match="Address already in use"):
        await daemon.container("n", "two", endpoint=endpoint)


async def test_host_and_none(daemon: Daemon) -> None:
    host, none = await daemon.container("host", "h"), await daemon.container("none", "n")
    attachment = daemon.service.attachment(host.id)
    assert attachment
    assert attachment.netns_fd is None
    assert list(attachment.networks) == ["host"]
    assert [line.split()[1] for line in sh("ip", "-o", "link", netns=none.netns).splitlines()] == ["lo:"]
    with pytest.raises(InvalidArgument, match="sharing network namespace"):
        await daemon.service.connect(host.id, AttachRequest("bridge", "h"))
    with pytest.raises(InvalidArgument, match="private"):
        await daemon.service.connect(none.id, AttachRequest("bridge", "n"))


# names


def query(name: str, kind: int = dnswire.A) -> bytes:
    return (
        struct.pack("!HHHHHH", 9, dnswire.RD, 1, 0, 0, 0)
        + dnswire.encode_name(name)
        + struct.pack("!HH", kind, 1)
    )


async def look_up(container: rig.Container, name: str) -> tuple[int, bytes]:
    """(response code, last four bytes) of an A query at 127.0.0.11."""
    reply = await ask_udp(container.netns, "127.0.0.11", 53, query(name))
    return reply[3] & 15, reply[-4:]


async def test_containers_find_each_other_by_name(daemon: Daemon) -> None:
    await daemon.service.create({"Name": "n"})
    one = await daemon.container("n", "one", endpoint={"Aliases": ["alias"]})
    two = await daemon.container("n", "two")
    address = socket.inet_aton(one.address("n"))
    for name in ("one", "ONE.n", "alias", one.id[:12]):
        assert await look_up(two, name) == (0, address), name
    await daemon.service.rename(one.id, "fresh")
    assert await look_up(two, "fresh") == (0, address)
    await one.stop()
    assert (await look_up(two, "fresh"))[1] != address


async def test_other_names_come_from_the_servers_given(daemon: Daemon) -> None:
    await daemon.service.create({"Name": "n"})
    server = await daemon.container("n", "server")
    asker = await daemon.container("n", "asker")
    files = daemon.service.etc_files(
        asker.id, hostname="h", domainname="", host_config={"Dns": [server.address("n")]}
    )
    assert "nameserver 127.0.0.11\n" in files.resolv_conf
    with rig.inside(server.netns):
        upstream = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        upstream.bind(("0.0.0.0", 53))
    upstream.setblocking(False)

    async def serve() -> str:
        data, peer = await asyncio.get_running_loop().sock_recvfrom(upstream, 512)
        reply = dnswire.answer_addresses(dnswire.parse_query(data), [rig_address])
        upstream.sendto(reply, peer)
        return str(peer[0])

    rig_address = daemon.service._spaces[daemon.service.inspect("n")["Id"]].subnet[77]
    with upstream:
        seen, found = await asyncio.gather(serve(), look_up(asker, "far.example"))
    assert found == (0, rig_address.packed)
    assert seen == asker.address("n"), "asked from inside the container's namespace"


async def test_port_53_stays_the_container_s_own(daemon: Daemon) -> None:
    await daemon.service.create({"Name": "n"})
    one = await daemon.container("n", "one")
    async with echoing(one.netns, 53):
        assert await ask_udp(one.netns, "127.0.0.1", 53) == b"127.0.0.1"
        assert (await look_up(one, "one"))[0] == 0


# files


async def test_hosts_and_resolv_conf_of_an_attached_container(daemon: Daemon) -> None:
    one = await daemon.container()
    gateway = daemon.service.inspect("bridge")["IPAM"]["Config"][0]["Gateway"]
    files = daemon.service.etc_files(
        one.id, hostname="box", domainname="", host_config={"ExtraHosts": ["gw:host-gateway"]}
    )
    assert files.hostname == "box\n"
    assert files.hosts.endswith(f"{gateway}\tgw\n{one.address()}\tbox\n")
    assert "(legacy)" in files.resolv_conf


# speed


async def test_joining_takes_no_time(daemon: Daemon) -> None:
    took: dict[str, list[float]] = {"plain": [], "published": [], "leave": []}
    for _ in range(20):
        for kind in ("plain", "published"):
            await daemon.filled()
            bindings = {"80/tcp": [{"HostPort": ""}]} if kind == "published" else {}
            start = time.perf_counter()
            one = await daemon.container(bindings=bindings)
            took[kind].append(time.perf_counter() - start)
            start = time.perf_counter()
            await one.stop()
            took["leave"].append(time.perf_counter() - start)
    medians = {kind: statistics.median(values) * 1e3 for kind, values in took.items()}
    print("network, median ms:", {kind: round(value, 2) for kind, value in medians.items()})
    for kind, values in took.items():
        assert min(values) < 3e-3, kind  # the best: a busy machine says nothing about the work there is


# two daemons


async def test_two_daemons_side_by_side(daemon: Daemon, outside: Outside) -> None:
    async with rig.daemon() as other:
        ours = await daemon.container(bindings={"80/tcp": [{"HostPort": ""}]})
        theirs = await other.container(bindings={"80/tcp": [{"HostPort": ""}]})
        async with listening(ours.netns, "0.0.0.0", 80), listening(theirs.netns, "0.0.0.0", 80):
            assert await unreachable(theirs.netns, ours.address(), 80)
            for port in (ours.port(), theirs.port()):
                assert await ask(outside.netns, outside.host, port) == outside.address
                assert await ask(None, "127.0.0.1", port)
                assert await ask(theirs.netns, outside.host, port)
        conflict = {"80/tcp": [{"HostPort": str(ours.port())}]}
        with pytest.raises(Internal, match="address already in use"):
            await other.container(name="late", bindings=conflict)
    async with listening(ours.netns, "0.0.0.0", 80):
        assert await ask(None, "127.0.0.1", ours.port()), "the other's end is none of ours"


def test_the_bridge_is_named_after_the_daemon(tmp_path: Path) -> None:
    assert len(Daemon(tmp_path).config.bridge) <= 15
