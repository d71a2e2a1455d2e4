"""What a create request means to the API version it came with."""

from __future__ import annotations

from typing import Any

import pytest

from api.createversion import DRIVER_IGNORED, MAC_DEPRECATED, adapt
from storage.errors import Internal, InvalidArgument

NOW = (1, 51)


def adapted(
    version: tuple[int, int], *, cgroups_v2: bool = False, **request: Any
) -> tuple[dict[str, Any], list[str]]:
    warnings = adapt(request, version, cgroups_v2=cgroups_v2)  # type: ignore[arg-type]
    return request, warnings


def host(version: tuple[int, int], *, cgroups_v2: bool = False, **fields: Any) -> dict[str, Any]:
    return adapted(version, cgroups_v2=cgroups_v2, HostConfig=fields)[0]["HostConfig"]  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("field", "given", "since", "before"),
    [
        ("AutoRemove", True, (1, 25), False),
        ("IpcMode", "", (1, 40), "shareable"),
        ("CgroupnsMode", "", (1, 41), "host"),
        ("ConsoleSize", [1, 2], (1, 42), [0, 0]),
        ("Annotations", {"a": "b"}, (1, 43), None),
        ("KernelMemoryTCP", 5, (1, 40), None),
    ],
)
def test_fields_by_version(field: str, given: Any, since: tuple[int, int], before: Any) -> None:
    assert host(since, **{field: given})[field] == given
    assert host((since[0], since[1] - 1), **{field: given}).get(field) == before


def test_what_was_asked_for_is_kept_whatever_the_version() -> None:
    assert host((1, 24), IpcMode="private", CgroupnsMode="private")["IpcMode"] == "private"
    assert "CgroupnsMode" not in host((1, 24), cgroups_v2=True)
    assert host(NOW, PidsLimit=7)["PidsLimit"] == 7
    assert "PidsLimit" not in host(NOW, PidsLimit=-1)
    assert host((1, 41), KernelMemory=7)["KernelMemory"] == 7
    assert "KernelMemory" not in host(NOW, KernelMemory=7)


def test_the_start_interval_came_with_1_44() -> None:
    health = {"Test": ["NONE"], "StartInterval": 5}
    assert "StartInterval" not in adapted((1, 43), Healthcheck=dict(health))[0]["Healthcheck"]
    assert adapted((1, 44), Healthcheck=dict(health))[0]["Healthcheck"] == health


def test_the_default_network_is_the_bridge() -> None:
    request, _ = adapted(NOW, NetworkingConfig={"EndpointsConfig": {"default": {"Aliases": ["a"]}}})
    assert request["HostConfig"]["NetworkMode"] == "bridge"
    assert request["NetworkingConfig"]["EndpointsConfig"] == {"bridge": {"Aliases": ["a"]}}


@pytest.mark.parametrize(
    ("mount", "since", "message"),
    [
        ({"Type": "image"}, (1, 48), 'Mount type "Image" needs API v1.48 or newer'),
        (
            {"Type": "volume", "VolumeOptions": {"Subpath": "x"}},
            (1, 45),
            "VolumeOptions.Subpath needs API v1.45 or newer",
        ),
        (
            {"Type": "bind", "BindOptions": {"ReadOnlyForceRecursive": True}},
            (1, 44),
            "BindOptions.ReadOnlyForceRecursive needs API v1.44 or newer",
        ),
    ],
)
def test_mounts_that_a_version_does_not_have(
    mount: dict[str, Any], since: tuple[int, int], message: str
) -> None:
    host(since, Mounts=[dict(mount)])
    with pytest.raises(InvalidArgument, match=message):
        host((since[0], since[1] - 1), Mounts=[dict(mount)])


def test_options_of_another_type_of_mount() -> None:
    mount = {"Type": "bind", "VolumeOptions": {"NoCopy": True}}
    assert host((1, 41), Mounts=[dict(mount)])["Mounts"] == [{"Type": "bind"}]
    with pytest.raises(InvalidArgument, match='VolumeOptions must not be specified on mount type "bind"'):
        host((1, 42), Mounts=[dict(mount)])


ETH0 = "net.ipv4.conf.eth0.log_martians"
OPTION = "com.docker.network.endpoint.sysctls"


def test_parameters_of_eth0_become_the_endpoints_before_1_48() -> None:
    request, warnings = adapted(
        (1, 47),
        HostConfig={"Sysctls": {ETH0: "1", "kernel.sem": "2"}, "NetworkMode": "n"},
        NetworkingConfig={"EndpointsConfig": {"n": {"DriverOpts": {OPTION: "x"}}}},
    )
    assert request["HostConfig"]["Sysctls"] == {"kernel.sem": "2"}
    moved = "net.ipv4.conf.IFNAME.log_martians=1"
    options = request["NetworkingConfig"]["EndpointsConfig"]["n"]["DriverOpts"]
    assert options == {OPTION: f"{moved},x"}
    assert warnings == [f'Migrated sysctl "{ETH0}" to DriverOpts{{"{OPTION}":"{moved}"}}.']


def test_parameters_of_interfaces_that_nobody_can_place() -> None:
    with pytest.raises(Internal, match=f"\"{ETH0}\" must be supplied using driver option '{OPTION}'"):
        host((1, 48), Sysctls={ETH0: "1"})
    with pytest.raises(
        Internal, match=r"unable to determine network endpoint for sysctl net\.ipv4\.conf\.eth1\.x"
    ):
        host((1, 47), Sysctls={"net.ipv4.conf.eth1.x": "1"})
    assert host((1, 47), NetworkMode="host", Sysctls={ETH0: "1"})["Sysctls"] == {ETH0: "1"}
    with pytest.raises(InvalidArgument, match="unable to find a network for sysctl"):
        adapted(
            (1, 47),
            HostConfig={"Sysctls": {ETH0: "1"}, "NetworkMode": "n"},
            NetworkingConfig={"EndpointsConfig": {"other": {}}},
        )


def test_several_networks_came_with_1_44_and_their_priority_with_1_48() -> None:
    def asked() -> dict[str, Any]:
        return {"EndpointsConfig": {"a": {"GwPriority": 1}, "b": {}}}

    with pytest.raises(InvalidArgument, match="multiple network endpoints: a, b"):
        adapted((1, 43), NetworkingConfig=asked())
    assert adapted((1, 47), NetworkingConfig=asked())[0]["NetworkingConfig"]["EndpointsConfig"]["a"] == {}
    assert adapted((1, 48), NetworkingConfig=asked())[0]["NetworkingConfig"] == asked()


def test_the_volume_driver_does_not_count_for_mounts() -> None:
    mounts: list[dict[str, Any]] = [{"Type": "volume", "VolumeOptions": None}]
    asked = {"VolumeDriver": "local", "Mounts": mounts}
    assert adapted(NOW, HostConfig=dict(asked))[1] == [DRIVER_IGNORED]
    assert adapted((1, 47), HostConfig=dict(asked))[1] == []
    mounts[0]["VolumeOptions"] = {"DriverConfig": {"Name": "local"}}
    assert adapted(NOW, HostConfig=dict(asked))[1] == []


def test_the_hardware_address_moves_to_the_endpoint() -> None:
    request, warnings = adapted(NOW, MacAddress="02:00:00:00:00:01")
    assert request["NetworkingConfig"]["EndpointsConfig"] == {"bridge": {"MacAddress": "02:00:00:00:00:01"}}
    assert (request["MacAddress"], warnings) == ("", [MAC_DEPRECATED])
    old, warnings = adapted((1, 43), MacAddress="02:00:00:00:00:01")
    assert old["NetworkingConfig"] == request["NetworkingConfig"]
    assert warnings == []


def test_hardware_addresses_that_contradict() -> None:
    endpoints = {"EndpointsConfig": {"bridge": {"MacAddress": "02:00:00:00:00:02"}}}
    with pytest.raises(InvalidArgument, match="must match the endpoint-specific MAC address"):
        adapted(NOW, MacAddress="02:00:00:00:00:01", NetworkingConfig=endpoints)
    with pytest.raises(InvalidArgument, match="must match the identity of a network"):
        adapted(NOW, MacAddress="02:00:00:00:00:01", NetworkingConfig={"EndpointsConfig": {"other": {}}})
    with pytest.raises(InvalidArgument, match="mac-address and the network mode"):
        adapted((1, 43), MacAddress="02:00:00:00:00:01", HostConfig={"NetworkMode": "host"})
    dropped, _ = adapted((1, 43), NetworkingConfig=endpoints)
    assert dropped["NetworkingConfig"]["EndpointsConfig"] == {"bridge": {}}
