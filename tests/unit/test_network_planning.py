"""Decisions made without the kernel: networks asked for, joins, start-up, foreign rules, DNS messages."""

from __future__ import annotations

import struct
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.config import DaemonConfig
from daemon.containers.wire import EndpointSettings
from daemon.network import attach, bridge, catalogue, dns, dnswire, foreign, startup
from daemon.network.kernel import Interface
from daemon.network.networks import Network, Registry, timestamp
from daemon.network.sandboxes import Endpoint, Sandbox, dns_names, load
from storage.errors import Conflict, Forbidden, InvalidArgument, NotFound, NotImplementedYet, PydError

CONFIG = DaemonConfig(data_root=Path("/a"), exec_root=Path("/b"))


def network(name: str, subnet: str = "10.1.0.0/24", **options: Any) -> Network:
    gateway = str(IPv4Network(subnet)[1])
    return Network(id=name * 8, name=name, subnet=subnet, gateway=gateway, created=timestamp(1), **options)


def endpoint(of: Network, address: str, name: str = "web", **settings: Any) -> Endpoint:
    return Endpoint(
        id=f"ep-{of.name}",
        network_id=of.id,
        network=of.name,
        settings=EndpointSettings(**settings),
        names=dns_names(name, settings.get("Aliases") or (), "0123456789ab"),
        interface=Interface(f"veth{of.name}", "eth0", IPv4Interface(address), "02:42:0a:01:00:02"),
        gateway=of.gateway,
        internal=of.internal,
    )


def sandbox(*endpoints: Endpoint) -> Sandbox:
    return Sandbox("s" * 64, "/b/netns/s", "web", "web", "", None, endpoints=list(endpoints))


@pytest.fixture
def registry() -> Registry:
    made = Registry()
    for each in (network("bridge", "172.17.0.0/16"), network("abc", "10.1.0.0/24")):
        made.add(each)
    return made


# networks


def make(registry: Registry, **body: Any) -> Network:
    return catalogue.new(registry, body, (), [IPv4Network("172.18.0.0/16")])


def test_a_new_network_avoids_ours_and_the_host_s_routes(registry: Registry) -> None:
    made = make(registry, Name="n")
    assert (made.subnet, made.gateway, made.user_subnet) == ("172.19.0.0/16", "172.19.0.1", False)


def test_a_new_network_as_asked(registry: Registry) -> None:
    made = make(
        registry,
        Name="n",
        Internal=True,
        Labels={"a": "b"},
        IPAM={
            "Config": [
                {
                    "Subnet": "10.9.0.0/24",
                    "IPRange": "10.9.0.128/25",
                    "Gateway": "10.9.0.254",
                    "AuxiliaryAddresses": {"a": "10.9.0.129"},
                }
            ]
        },
    )
    document = made.json({})
    assert document["IPAM"]["Config"] == [
        {
            "Subnet": "10.9.0.0/24",
            "IPRange": "10.9.0.128/25",
            "Gateway": "10.9.0.254",
            "AuxiliaryAddresses": {"a": "10.9.0.129"},
        }
    ]
    assert document["Internal"] is True
    space = made.space()
    assert [str(space.allocate()) for _ in range(2)] == ["10.9.0.128", "10.9.0.130"]


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        ({"Name": ""}, InvalidArgument, "invalid name: name is empty"),
        ({"Name": "host"}, Forbidden, "operation is not permitted on predefined host network"),
        ({"Name": "abc"}, Conflict, "network with name abc already exists"),
        ({"Name": "n", "Driver": "foo"}, NotFound, 'plugin "foo" not found'),
        ({"Name": "n", "Driver": "null"}, Forbidden, 'only one instance of "null" network is allowed'),
        ({"Name": "n", "Driver": "macvlan"}, NotImplementedYet, "macvlan"),
        ({"Name": "n", "IPAM": {"Driver": "foo"}}, NotFound, 'plugin "foo" not found'),
        ({"Name": "n", "EnableIPv4": False}, InvalidArgument, "IPv4 or IPv6 must be enabled"),
        ({"Name": "n", "EnableIPv6": True}, NotImplementedYet, "IPv6"),
        (
            {"Name": "n", "IPAM": {"Config": [{"Subnet": "172.17.0.0/24"}]}},
            Forbidden,
            "invalid pool request: Pool overlaps with other one on this address space",
        ),
        (
            {"Name": "n", "IPAM": {"Config": [{"Subnet": "10.2.0.0/24", "Gateway": "10.3.0.1"}]}},
            InvalidArgument,
            "invalid network config:\ninvalid gateway 10.3.0.1: parent subnet 10.2.0.0/24 doesn't contain "
            "this address",
        ),
        (
            {"Name": "n", "IPAM": {"Config": [{"Gateway": "10.3.0.1"}]}},
            InvalidArgument,
            "every ip-range or gateway must have a corresponding subnet",
        ),
        (
            {"Name": "n", "Options": {bridge.ICC: "foo"}},
            InvalidArgument,
            f'failed to parse {bridge.ICC} value: foo (strconv.ParseBool: parsing "foo": invalid syntax)',
        ),
        (
            {"Name": "n", "Options": {bridge.MTU: "abc"}},
            InvalidArgument,
            f'failed to parse {bridge.MTU} value: abc (strconv.Atoi: parsing "abc": invalid syntax)',
        ),
        ({"Name": "n", "Options": {bridge.NAME: "a b"}}, InvalidArgument, "invalid bridge name"),
        ({"Name": "n", "Options": {bridge.NAME: "br-abcabcabcabc"}}, Forbidden, "same bridge name"),
    ],
)
def test_wrong_networks_are_refused_in_docker_s_words(
    registry: Registry, body: dict[str, Any], kind: type[PydError], message: str
) -> None:
    with pytest.raises(kind) as caught:
        make(registry, **body)
    assert message in str(caught.value)


def test_networks_are_found_by_id_name_and_unique_prefix(registry: Registry) -> None:
    assert registry.resolve("abc").name == "abc"
    assert registry.resolve("default").name == "bridge"
    assert registry.resolve("abcab").name == "abc"
    with pytest.raises(NotFound, match="network nosuch not found"):
        registry.resolve("nosuch")
    registry.add(replace(network("x"), id="abcabX"))
    with pytest.raises(InvalidArgument, match="ambiguous"):
        registry.resolve("abcab")


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ({}, {"bridge", "abc"}),
        ({"name": ["b"]}, {"bridge", "abc"}),
        ({"name": ["^abc$", "nope"]}, {"abc"}),
        ({"id": ["abcabc"]}, {"abc"}),
        ({"type": ["custom"]}, {"abc"}),
        ({"type": ["builtin"]}, {"bridge"}),
        ({"driver": ["host"]}, set()),
        ({"dangling": ["true"]}, {"abc"}),
        ({"scope": ["local"], "label": ["x=y"]}, set()),
    ],
)
def test_filters(registry: Registry, filters: dict[str, list[str]], names: set[str]) -> None:
    assert {found.name for found in catalogue.select(registry, filters, set())} == names


def test_unknown_filters_are_refused(registry: Registry) -> None:
    with pytest.raises(InvalidArgument, match="invalid filter 'foo'"):
        catalogue.select(registry, {"foo": ["x"]}, set())


def test_prune_spares_builtins_used_and_young_networks(registry: Registry) -> None:
    assert [found.name for found in catalogue.prunable(registry, {}, set())] == ["abc"]
    assert catalogue.prunable(registry, {}, {"abc" * 8}) == []
    registry.add(replace(network("new", "10.5.0.0/24"), created=timestamp()))
    assert [found.name for found in catalogue.prunable(registry, {"until": ["1h"]}, set())] == ["abc"]


# joining


def test_addresses_are_for_networks_with_a_user_s_subnet() -> None:
    settings = EndpointSettings(IPAMConfig={"IPv4Address": "10.1.0.9"})
    with pytest.raises(
        InvalidArgument, match="only when connecting to networks with user configured subnets"
    ):
        attach.check_endpoint(network("abc"), settings)
    attach.check_endpoint(network("abc", user_subnet=True), settings)
    with pytest.raises(InvalidArgument, match=r"no configured subnet contains IP address 10\.1\.0\.9"):
        attach.check_endpoint(network("abc", "10.2.0.0/24", user_subnet=True), settings)


def test_the_gateway_is_the_highest_priority_then_the_first_name() -> None:
    a, b = network("a"), network("b", "10.2.0.0/24")
    both = sandbox(endpoint(b, "10.2.0.2/24"), endpoint(a, "10.1.0.2/24"))
    assert (found := both.gateway()) and found.network == "a"
    both = sandbox(endpoint(a, "10.1.0.2/24"), endpoint(b, "10.2.0.2/24", GwPriority=1))
    assert (found := both.gateway()) and found.network == "b"
    assert sandbox(endpoint(network("i", internal=True), "10.1.0.2/24")).gateway() is None


def test_the_same_network_cannot_be_joined_twice() -> None:
    a = network("a")
    inside = replace(sandbox(endpoint(a, "10.1.0.2/24")), namespace=object())  # type: ignore[arg-type]
    with pytest.raises(Forbidden, match="endpoint with name web already exists in network a"):
        attach.check_join(a, inside, "web")
    with pytest.raises(InvalidArgument, match="cannot connect container to host network"):
        attach.check_join(Network("h", "host", "host"), inside, "web")


def test_a_record_brings_the_sandbox_back() -> None:
    one = sandbox(endpoint(network("a"), "10.1.0.2/24", Aliases=["x"]))
    assert load(one.record()) == one


def test_a_rename_keeps_aliases() -> None:
    one = sandbox(endpoint(network("a"), "10.1.0.2/24", Aliases=["x"]))
    one.hostname = "h"
    one.rename("f" * 64, "fresh")
    assert one.endpoints[0].names == ("fresh", "x", "f" * 12, "h")


# start-up


def plan(records: dict[str, Any], **options: Any) -> startup.Found:
    return startup.plan(CONFIG, records, {}, live=(), **{"routes": [], **options})


def test_a_first_start_makes_docker_s_three_networks_around_the_host_s_routes() -> None:
    found = plan({}, routes=[("docker0", IPv4Network("172.17.0.0/16"))])
    assert {one.name for one in found.networks} == {"bridge", "host", "none"}
    assert found.changed == found.networks
    made = next(one for one in found.networks if one.name == "bridge")
    assert (made.subnet, made.options[bridge.NAME]) == ("172.18.0.0/16", CONFIG.bridge)


def test_a_restart_keeps_ids_and_subnet_and_records_nothing() -> None:
    first = plan({})
    records = {one.id: one.record() for one in first.networks}
    again = plan(records, routes=[(CONFIG.bridge, IPv4Network("172.17.0.0/16"))])
    assert again.changed == []
    assert {one.id for one in again.networks} == set(records)


def test_a_subnet_that_someone_took_meanwhile_is_left_unless_containers_live_in_it() -> None:
    first = plan({})
    records = {one.id: one.record() for one in first.networks}
    taken = [("eth1", IPv4Network("172.17.0.0/24"))]
    moved = plan(records, routes=taken)
    assert [one.subnet for one in moved.changed] == ["172.18.0.0/16"]
    default = next(one for one in first.networks if one.name == "bridge")
    living = {"c": sandbox(endpoint(default, "172.17.0.2/16")).record()}
    kept = startup.plan(CONFIG, records, living, live={"c"}, routes=taken)
    assert kept.changed == []
    assert list(kept.sandboxes) == ["c"]


def test_bip_decides() -> None:
    config = replace(CONFIG, bip="10.200.0.5/24")
    found = startup.plan(config, {}, {}, live=(), routes=[])
    made = next(one for one in found.networks if one.name == "bridge")
    assert (made.subnet, made.gateway) == ("10.200.0.0/24", "10.200.0.5")
    with pytest.raises(InvalidArgument, match="invalid --bip"):
        startup.plan(replace(CONFIG, bip="foo"), {}, {}, live=(), routes=[])


def test_the_dead_are_forgotten() -> None:
    found = startup.plan(CONFIG, {}, {"c": sandbox().record()}, live=(), routes=[])
    assert (found.dead, found.sandboxes) == (["c"], {})


# a foreign FORWARD chain


def chain(*rules: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"chain": {"name": "FORWARD", "policy": "drop"}}, *({"rule": rule} for rule in rules)]


def jump(handle: int, target: str) -> dict[str, Any]:
    return {"handle": handle, "expr": [{"counter": {}}, {"jump": {"target": target}}]}


def ours(handle: int, way: str, name: str, owner: str = "pyd") -> dict[str, Any]:
    match = {"match": {"op": "==", "left": {"meta": {"key": way}}, "right": name}}
    return {"handle": handle, "comment": owner, "expr": [match, {"accept": None}]}


def test_rules_go_behind_docker_s_jumps() -> None:
    commands = foreign.plan(chain(jump(13, "DOCKER-USER"), jump(8, "DOCKER-FORWARD")), "pyd", {"pyd0"})
    assert commands == (
        'add rule ip filter FORWARD position 8 iifname "pyd0" counter accept comment "pyd"\n'
        'add rule ip filter FORWARD position 8 oifname "pyd0" counter accept comment "pyd"\n'
    )


def test_rules_go_first_where_docker_is_not() -> None:
    assert foreign.plan(chain(), "pyd", {"pyd0"}).startswith("insert rule ip filter FORWARD iifname")


def test_right_rules_stay_stale_ones_go_others_are_left_alone() -> None:
    listing = chain(
        jump(8, "DOCKER-FORWARD"),
        ours(20, "iifname", "pyd0"),
        ours(21, "oifname", "pyd0"),
        ours(22, "iifname", "br-gone"),
        ours(23, "iifname", "pydx0", owner="pydx"),
    )
    assert foreign.plan(listing, "pyd", {"pyd0"}) == "delete rule ip filter FORWARD handle 22\n"


def test_rules_that_docker_s_jumps_overtook_are_moved() -> None:
    listing = chain(ours(20, "iifname", "pyd0"), ours(21, "oifname", "pyd0"), jump(30, "DOCKER-FORWARD"))
    commands = foreign.plan(listing, "pyd", {"pyd0"}).splitlines()
    assert commands[:2] == [f"delete rule ip filter FORWARD handle {handle}" for handle in (20, 21)]
    assert all("position 30" in command for command in commands[2:])


def test_no_chain_no_rules() -> None:
    assert foreign.plan([], "pyd", {"pyd0"}) == ""


# names


def query(name: str, kind: int = dnswire.A, ident: int = 7) -> bytes:
    header = struct.pack("!HHHHHH", ident, dnswire.RD, 1, 0, 0, 0)
    return header + dnswire.encode_name(name) + struct.pack("!HH", kind, 1)


def test_a_query_is_read() -> None:
    read = dnswire.parse_query(query("Web.Example."))
    assert (read.id, read.name, read.type) == (7, "web.example", dnswire.A)
    reverse = dnswire.parse_query(query("2.0.18.172.in-addr.arpa", dnswire.PTR))
    assert reverse.reversed_address == IPv4Address("172.18.0.2")


def test_an_answer_carries_addresses_and_the_question() -> None:
    asked = query("web")
    reply = dnswire.answer_addresses(dnswire.parse_query(asked), [IPv4Address("10.0.0.2")])
    assert dnswire.answers_to(asked, reply)
    assert struct.unpack_from("!HHHH", reply) == (7, 0x8180, 1, 1)
    assert reply.endswith(struct.pack("!HHIH", 1, 1, 600, 4) + bytes([10, 0, 0, 2]))


def test_a_known_name_without_ipv6_is_empty_not_unknown() -> None:
    reply = dnswire.answer_addresses(dnswire.parse_query(query("web", dnswire.AAAA)), [IPv4Address(1)])
    assert struct.unpack_from("!HHHH", reply) == (7, 0x8180, 1, 0)


def test_an_answer_too_long_for_udp_is_truncated() -> None:
    addresses = [IPv4Address(number) for number in range(100)]
    reply = dnswire.answer_addresses(dnswire.parse_query(query("web")), addresses)
    assert len(reply) <= 512
    assert reply[2] & 0x02


def test_replies_to_other_questions_are_not_taken() -> None:
    asked = query("web")
    other = dnswire.answer_addresses(dnswire.parse_query(query("evil")), [IPv4Address(1)])
    assert not dnswire.answers_to(asked, other)
    assert not dnswire.answers_to(asked, asked)


@given(st.binary(max_size=80))
def test_any_bytes_are_a_query_or_malformed(data: bytes) -> None:
    for message in (data, struct.pack("!HHHHHH", 1, 0, 1, 0, 0, 1) + data):
        try:
            read = dnswire.parse_query(message)
        except dnswire.Malformed:
            continue
        assert dnswire.refuse(read, dnswire.SERVFAIL)
        assert dnswire.answers_to(message, message) in (True, False)


def test_names_are_seen_in_shared_networks_only() -> None:
    a, b = network("a"), network("b", "10.2.0.0/24")
    names = dns.Names()
    web, other = endpoint(a, "10.1.0.2/24", Aliases=["all"]), endpoint(b, "10.2.0.2/24", "db")
    for each in (web, other):
        names.add(each)
    asker = endpoint(a, "10.1.0.3/24", "me", Links=["web:linked"])
    for name in ("web", "all", "web.a", "linked", "0123456789ab"):
        assert names.addresses([asker], name) == [IPv4Address("10.1.0.2")], name
    for name in ("db", "web.b", "nothing", ""):
        assert names.addresses([asker], name) == [], name
    assert names.name([asker], IPv4Address("10.1.0.2")) == "web.a"
    assert names.name([asker], IPv4Address("10.2.0.2")) is None
    names.discard(web)
    assert names.addresses([asker], "web") == []


def test_timestamps_are_go_s() -> None:
    assert timestamp(1_700_000_000_120_000_000) == "2023-11-14T22:13:20.12Z"
    assert timestamp(1_700_000_000_000_000_000) == "2023-11-14T22:13:20Z"
