"""Published ports: parsing, choosing, holding, and Docker's words when they cannot be had."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address

import pytest

from daemon.network import ports
from daemon.network.ports import Bound, PortAllocator, PortConflict, Want
from storage.errors import InvalidArgument

CONTAINER = IPv4Address("172.18.0.2")
LOOPBACK = IPv4Address("127.0.0.1")


@pytest.fixture
def allocator() -> Iterator[PortAllocator]:
    made = PortAllocator(ipv6=False)
    yield made
    made.close()


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_parses_docker_s_maps() -> None:
    wants = ports.parse(
        {
            "80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}, {"HostPort": ""}],
            "53/udp": [{"HostIp": "", "HostPort": "5300-5310"}],
            "99/tcp": None,
        },
        ["80/tcp", "99/tcp"],
        publish_all=False,
    )
    assert wants == [
        Want("tcp", 80, LOOPBACK, 8080, 8080),
        Want("tcp", 80, None, 0, 0),
        Want("udp", 53, None, 5300, 5310),
    ]


def test_publish_all_adds_exposed_ports_that_are_not_bound() -> None:
    wants = ports.parse({"80/tcp": [{"HostPort": "8080"}]}, ["80/tcp", "81/udp"], publish_all=True)
    assert wants == [Want("tcp", 80, None, 8080, 8080), Want("udp", 81, None, 0, 0)]


@pytest.mark.parametrize(
    "bindings",
    [
        {"80/foo": [{"HostPort": "1"}]},
        {"x": [{"HostPort": "1"}]},
        {"99999/tcp": [{"HostPort": "1"}]},
        {"80/tcp": [{"HostPort": "99999"}]},
        {"80/tcp": [{"HostPort": "20-10"}]},
        {"80/tcp": [{"HostPort": "-5"}]},
        {"80/tcp": [{"HostPort": "٣"}]},
        {"80/tcp": [{"HostIp": "nowhere", "HostPort": "1"}]},
    ],
)
def test_nonsense_is_refused(bindings: dict[str, list[ports.PortBinding]]) -> None:
    with pytest.raises(InvalidArgument):
        ports.parse(bindings, [], publish_all=False)


def test_a_reserved_port_is_held_against_other_programs(allocator: PortAllocator) -> None:
    port = free_port()
    allocator.reserve(Want("tcp", 80, LOOPBACK, port, port), CONTAINER)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="Address already in use"):
            other.bind(("127.0.0.1", port))
            other.listen()


def test_a_udp_port_is_held_too(allocator: PortAllocator) -> None:
    port = free_port(socket.SOCK_DGRAM)
    allocator.reserve(Want("udp", 80, LOOPBACK, port, port), CONTAINER)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="Address already in use"):
            other.bind(("127.0.0.1", port))


def test_our_own_conflict_reads_as_dockerd_s(allocator: PortAllocator) -> None:
    port = free_port()
    allocator.reserve(Want("tcp", 80, None, port, port), CONTAINER)
    with pytest.raises(PortConflict) as caught:
        allocator.reserve(Want("tcp", 81, None, port, port), CONTAINER)
    assert str(caught.value) == f"Bind for 0.0.0.0:{port} failed: port is already allocated"
    with pytest.raises(PortConflict, match=f"Bind for 127.0.0.1:{port} failed: port is already allocated"):
        allocator.reserve(Want("tcp", 81, LOOPBACK, port, port), CONTAINER)


def test_another_program_s_port_reads_as_dockerd_s(allocator: PortAllocator) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(PortConflict) as caught:
            allocator.reserve(Want("tcp", 80, LOOPBACK, port, port), CONTAINER)
    assert str(caught.value) == (
        f"failed to bind host port for 127.0.0.1:{port}:172.18.0.2:80/tcp: address already in use"
    )
    assert allocator.reserve(Want("tcp", 80, LOOPBACK, port, port), CONTAINER)


def test_an_address_that_is_not_ours_is_refused(allocator: PortAllocator) -> None:
    with pytest.raises(PortConflict, match="cannot assign requested address"):
        allocator.reserve(Want("tcp", 80, IPv4Address("203.0.113.9"), 18181, 18181), CONTAINER)


def test_the_same_number_serves_tcp_and_udp_and_other_addresses(allocator: PortAllocator) -> None:
    port = free_port()
    for want in (
        Want("tcp", 80, LOOPBACK, port, port),
        Want("udp", 80, LOOPBACK, port, port),
        Want("tcp", 80, IPv4Address("127.0.0.2"), port, port),
    ):
        assert len(allocator.reserve(want, CONTAINER)) == 1


def test_a_range_gives_its_first_free_port(allocator: PortAllocator) -> None:
    first = allocator.reserve(Want("tcp", 80, LOOPBACK, 18200, 18203), CONTAINER)[0].host_port
    second = allocator.reserve(Want("tcp", 80, LOOPBACK, 18200, 18203), CONTAINER)[0].host_port
    assert 18200 <= first < second <= 18203


def test_a_full_range_says_so(allocator: PortAllocator) -> None:
    allocator.reserve(Want("tcp", 80, LOOPBACK, 18210, 18211), CONTAINER)
    allocator.reserve(Want("tcp", 80, LOOPBACK, 18210, 18211), CONTAINER)
    with pytest.raises(PortConflict, match=r"Bind for 127\.0\.0\.1:18210-18211 failed"):
        allocator.reserve(Want("tcp", 80, LOOPBACK, 18210, 18211), CONTAINER)


def test_ephemeral_ports_differ_and_lie_in_the_kernel_s_range(allocator: PortAllocator) -> None:
    low, high = map(int, ports.LOCAL_PORTS.read_text().split())
    found = [allocator.reserve(Want("tcp", 80, None, 0, 0), CONTAINER)[0].host_port for _ in range(5)]
    assert len(set(found)) == 5
    assert all(low <= port <= high for port in found)


def test_a_released_port_is_free_for_all(allocator: PortAllocator) -> None:
    port = free_port()
    bound = allocator.reserve(Want("tcp", 80, LOOPBACK, port, port), CONTAINER)
    allocator.release(bound)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
    assert allocator.reserve(Want("tcp", 80, LOOPBACK, port, port), CONTAINER) == bound


def test_a_host_with_ipv6_publishes_on_both_families_with_one_number() -> None:
    allocator = PortAllocator(ipv6=True)
    try:
        bound = allocator.reserve(Want("tcp", 80, None, 0, 0), CONTAINER)
    finally:
        allocator.close()
    assert [str(one.host_ip) for one in bound] == ["0.0.0.0", "::"]
    assert len({one.host_port for one in bound}) == 1


def test_the_port_map_is_docker_s() -> None:
    bound = [
        Bound("tcp", 80, IPv4Address(0), 8080),
        Bound("tcp", 80, IPv6Address(0), 8080),
        Bound("udp", 53, LOOPBACK, 53),
    ]
    assert ports.port_map(bound, ["80/tcp", "99"]) == {
        "80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}, {"HostIp": "::", "HostPort": "8080"}],
        "53/udp": [{"HostIp": "127.0.0.1", "HostPort": "53"}],
        "99/tcp": None,
    }
