"""Choosing subnets and addresses."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.network import ipam
from daemon.network.ipam import AddressSpace
from storage.errors import Conflict, Forbidden, InvalidArgument


def test_default_pools_are_docker_s_in_order() -> None:
    found = list(ipam.subnets(ipam.DEFAULT_POOLS))
    assert [str(network) for network in found[:5]] == [
        "172.17.0.0/16",
        "172.18.0.0/16",
        "172.19.0.0/16",
        "172.20.0.0/16",
        "172.21.0.0/16",
    ]
    assert str(found[14]) == "172.31.0.0/16"
    assert str(found[15]) == "192.168.0.0/20"
    assert len(found) == 15 + 16


def test_chooses_the_first_subnet_that_overlaps_nothing() -> None:
    taken = [IPv4Network("172.17.0.0/16"), IPv4Network("172.18.4.0/30"), IPv4Network("10.0.0.0/8")]
    assert ipam.choose_subnet((), taken) == IPv4Network("172.19.0.0/16")


def test_pools_of_the_administrator_replace_docker_s() -> None:
    assert ipam.choose_subnet((("10.200.0.0/23", 24),), []) == IPv4Network("10.200.0.0/24")
    with pytest.raises(Forbidden, match="all predefined address pools have been fully subnetted"):
        ipam.choose_subnet((("10.200.0.0/24", 24),), [IPv4Network("10.200.0.0/16")])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("10.0.0.0/33", "invalid subnet 10.0.0.0/33: invalid CIDR block notation"),
        ("10.1.0.0", "invalid subnet 10.1.0.0: invalid CIDR block notation"),
        ("foo", "invalid subnet foo: invalid CIDR block notation"),
        ("10.1.0.5/24", "invalid subnet 10.1.0.5/24: it should be 10.1.0.0/24"),
    ],
)
def test_wrong_subnets_are_refused_in_docker_s_words(text: str, message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        ipam.parse_subnet(text)
    assert str(caught.value) == message


def space(subnet: str = "10.0.0.0/29", **options: object) -> AddressSpace:
    return AddressSpace(IPv4Network(subnet), gateway=IPv4Address("10.0.0.1"), **options)  # type: ignore[arg-type]


def test_addresses_are_lowest_first_and_never_reserved_ones() -> None:
    addresses = space(reserved=[IPv4Address("10.0.0.3")])
    assert [str(addresses.allocate()) for _ in range(4)] == ["10.0.0.2", "10.0.0.4", "10.0.0.5", "10.0.0.6"]
    with pytest.raises(Conflict, match="no available IPv4 addresses"):
        addresses.allocate()


def test_a_released_address_is_the_next_one_given() -> None:
    addresses = space()
    given_out = [addresses.allocate() for _ in range(3)]
    addresses.release(given_out[1])
    assert addresses.allocate() == given_out[1]


def test_the_gateway_is_never_given_even_when_released() -> None:
    addresses = space()
    addresses.release(IPv4Address("10.0.0.1"))
    assert addresses.allocate() == IPv4Address("10.0.0.2")


def test_a_claimed_address_is_taken_and_must_be_inside() -> None:
    addresses = space()
    addresses.claim(IPv4Address("10.0.0.2"))
    with pytest.raises(Forbidden, match="Address already in use"):
        addresses.claim(IPv4Address("10.0.0.2"))
    with pytest.raises(InvalidArgument):
        addresses.claim(IPv4Address("10.0.1.2"))
    assert addresses.allocate() == IPv4Address("10.0.0.3")


def test_an_ip_range_bounds_what_is_allocated_not_what_is_claimed() -> None:
    addresses = space("10.0.0.0/24", ip_range=IPv4Network("10.0.0.128/25"))
    assert addresses.allocate() == IPv4Address("10.0.0.128")
    assert addresses.claim(IPv4Address("10.0.0.9")) == IPv4Address("10.0.0.9")


@given(st.lists(st.one_of(st.none(), st.integers(0, 40)), max_size=80))
def test_no_address_is_ever_held_twice(steps: list[int | None]) -> None:
    addresses, held = space("10.0.0.0/27"), list[IPv4Address]()
    for step in steps:
        if step is None:
            try:
                address = addresses.allocate()
            except Conflict:
                assert len(held) == 29
                continue
            assert address not in held
            held.append(address)
        elif held:
            addresses.release(held.pop(step % len(held)))


def test_macs_follow_from_addresses() -> None:
    assert ipam.mac_for(IPv4Address("172.18.0.2")) == "02:42:ac:12:00:02"
