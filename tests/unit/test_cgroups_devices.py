"""Device rules: the normal form, v1's lines, and the eBPF program run by a small interpreter of our own."""

from __future__ import annotations

import itertools
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.cgroups import CgroupError
from daemon.cgroups.devices.program import assemble
from daemon.cgroups.devices.rules import DEFAULT_RULES, Device, DevicePolicy, policy_of
from daemon.cgroups.v1.devices import difference, parse_list

DENY_ALL: dict[str, Any] = {"allow": False, "access": "rwm"}
ALLOW_ALL: dict[str, Any] = {"allow": True, "access": "rwm"}
ACCESS = {"m": 1, "r": 2, "w": 4}


def rule(allow: bool, kind: str, major: int | None, minor: int | None, access: str = "rwm") -> dict[str, Any]:
    found: dict[str, Any] = {"allow": allow, "type": kind, "access": access}
    if major is not None:
        found["major"] = major
    if minor is not None:
        found["minor"] = minor
    return found


def parts(policy: DevicePolicy) -> tuple[bool, dict[Device, frozenset[str]]]:
    return policy.allow_all, policy.exceptions


def permits(policy: DevicePolicy, kind: str, major: int, minor: int, wanted: str) -> bool:
    """What the policy means, by definition: an allow list needs one exception that holds all that is
    wanted; a deny list stops what any exception names a part of."""
    matching = [
        access
        for device, access in policy.exceptions.items()
        if device.type == kind and device.major in (-1, major) and device.minor in (-1, minor)
    ]
    if policy.allow_all:
        return not any(access & set(wanted) for access in matching)
    return any(access >= set(wanted) for access in matching)


def interpret(code: bytes, kind: str, major: int, minor: int, wanted: str) -> bool:
    """Run the program on one `struct bpf_cgroup_dev_ctx`; only the instructions the kernel documents."""
    access = sum(ACCESS[letter] for letter in wanted)
    context = struct.pack(
        "<III", access << 16 | {"b": 1, "c": 2}[kind], major & 0xFFFFFFFF, minor & 0xFFFFFFFF
    )
    registers = [0] * 11
    pc = 0
    while True:
        operation, both, offset, constant = struct.unpack_from("<BBhI", code, pc * 8)
        to, source = both & 15, both >> 4
        pc += 1
        match operation:
            case 0x61:
                assert source == 1
                (registers[to],) = struct.unpack_from("<I", context, offset)
            case 0x54:
                registers[to] &= constant
            case 0x5C:
                registers[to] &= registers[source]
            case 0x74:
                registers[to] >>= constant
            case 0xB4:
                registers[to] = constant
            case 0xBC:
                registers[to] = registers[source]
            case 0x56:
                pc += offset if registers[to] != constant else 0
            case 0x5E:
                pc += offset if registers[to] != registers[source] else 0
            case 0x16:
                pc += offset if registers[to] == constant else 0
            case 0x95:
                return bool(registers[0])
            case _:
                raise AssertionError(f"unknown instruction {operation:#x} at {pc - 1}")


def test_rules_apply_in_order_and_the_usual_devices_come_last() -> None:
    policy = policy_of([rule(True, "c", 10, 229), DENY_ALL, rule(True, "b", 8, None, "r")])
    assert not policy.allow_all
    assert Device("c", 10, 229) not in policy.exceptions
    assert policy.exceptions[Device("b", 8, -1)] == {"r"}
    assert len(policy.exceptions) == 1 + len(DEFAULT_RULES)


def test_no_rules_allow_the_usual_devices_only() -> None:
    assert parts(policy_of([])) == parts(policy_of([DENY_ALL]))


def test_allow_all_keeps_later_denials() -> None:
    policy = policy_of([ALLOW_ALL, rule(False, "c", 10, 229, "w")])
    assert parts(policy) == (True, {Device("c", 10, 229): frozenset("w")})


def test_access_of_one_device_adds_up_and_is_taken_back() -> None:
    rules = [DENY_ALL, rule(True, "c", 10, 7, "r"), rule(True, "c", 10, 7, "w"), rule(False, "c", 10, 7, "r")]
    assert policy_of(rules).exceptions[Device("c", 10, 7)] == {"w"}
    wide = [DENY_ALL, rule(True, "c", 10, 7), rule(False, "c", None, None, "rw")]
    assert policy_of(wide).exceptions[Device("c", 10, 7)] == {"m"}


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (rule(True, "p", 1, 1), "type 'p'"),
        (rule(True, "c", 1, 1, "rx"), "access 'rx'"),
        (rule(True, "c", -2, 1), "out of range"),
        (rule(True, "c", 1 << 32, 1), "out of range"),
    ],
)
def test_bad_rules_are_named(bad: dict[str, Any], words: str) -> None:
    with pytest.raises(CgroupError, match=words):
        policy_of([bad])


def test_a_hole_in_a_wildcard_is_refused() -> None:
    with pytest.raises(CgroupError, match=r"hole in the earlier rule for c 10:\*"):
        policy_of([DENY_ALL, rule(True, "c", 10, None), rule(False, "c", 10, 229)])


def test_v1_list_reads_back() -> None:
    assert parts(parse_list("a *:* rwm")) == (True, {})
    policy = parse_list("c *:* m\nc 136:* rwm\nb 8:1 r\n")
    assert policy.exceptions == {
        Device("c", -1, -1): frozenset("m"),
        Device("c", 136, -1): frozenset("rwm"),
        Device("b", 8, 1): frozenset("r"),
    }


def test_v1_difference_touches_only_what_changes() -> None:
    now = parse_list("c 1:3 rwm\nc 10:1 rw\nb 8:0 r\n")
    wanted = parse_list("c 1:3 rwm\nc 10:1 rm\nb 8:1 r\n")
    gained, lost = difference(now, wanted)
    assert gained == ["c 10:1 m", "b 8:1 r"]
    assert lost == ["c 10:1 w", "b 8:0 r"]


def test_program_answers_what_the_default_policy_means() -> None:
    code = assemble(policy_of([DENY_ALL]))
    assert interpret(code, "c", 1, 3, "rw")
    assert interpret(code, "c", 136, 9, "rwm")
    assert interpret(code, "b", 8, 0, "m")
    assert not interpret(code, "b", 8, 0, "r")
    assert not interpret(code, "b", 8, 0, "rm")
    assert not interpret(code, "c", 1, 1, "r")
    assert interpret(assemble(policy_of([ALLOW_ALL])), "c", 1, 1, "rwm")


numbers = st.sampled_from([-1, 0, 1, 2, 255, (1 << 32) - 1])
devices = st.builds(Device, st.sampled_from("bc"), numbers, numbers)
accesses = st.frozensets(st.sampled_from("rwm"), min_size=1)
policies = st.builds(DevicePolicy, st.booleans(), st.dictionaries(devices, accesses, max_size=6))


@given(
    policies,
    st.sampled_from("bc"),
    st.sampled_from([0, 1, 2, 255, (1 << 32) - 1]),
    st.sampled_from([0, 1, 2, 7]),
)
def test_program_means_the_policy(policy: DevicePolicy, kind: str, major: int, minor: int) -> None:
    code = assemble(policy)
    for length in (1, 2, 3):
        for letters in itertools.combinations("rwm", length):
            wanted = "".join(letters)
            assert interpret(code, kind, major, minor, wanted) == permits(policy, kind, major, minor, wanted)
