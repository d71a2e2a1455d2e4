"""What builds keep: which of it a prune takes, what filters mean, what garbage collection goes by."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from api.options import _builder
from daemon.build.upkeep.inventory import (
    LOCAL,
    MOUNT,
    REGULAR,
    Record,
    chosen,
    default_rules,
    from_api,
    matcher,
    rules,
)
from daemon.config import BuilderConfig, CacheRule
from storage.errors import InvalidArgument

HOUR = 3600 * 10**9
NOW = 100 * 24 * HOUR


def record(name: str, *, age: int = 1, size: int = 100, **members: Any) -> Record:
    """`age`: hours since the last use."""
    made = Record(name, REGULAR, f"RUN {name}", size, 0, NOW - age * HOUR, 1, name)
    return replace(made, **members)


def gone(records: list[Record], rule: CacheRule, free: int = 10**9) -> list[str]:
    return [each.id for each in chosen(records, rule, NOW, free)]


def test_the_least_lately_used_goes_first_and_what_stands_on_others_before_them() -> None:
    records = [
        record("base", age=9),
        record("child", age=2, parents=("base",)),
        record("other", age=5),
    ]
    assert gone(records, CacheRule()) == ["other", "child", "base"]
    assert gone(records, CacheRule(filters=("id==base",))) == [], "a child stands on it"
    assert gone(records, CacheRule(unused_for=4 * HOUR)) == ["other"]


def test_what_is_used_or_an_images_stays() -> None:
    records = [record("busy", in_use=True), record("shared", shared=True), record("front", type="frontend")]
    assert gone(records, CacheRule()) == []
    assert gone(records, CacheRule(all=True)) == ["front", "shared"]


def test_limits() -> None:
    records = [record(name, age=9 - place) for place, name in enumerate("abcd")]
    assert gone(records, CacheRule(most=250)) == ["a", "b"]
    assert gone(records, CacheRule(reserved=350)) == ["a"]
    assert gone(records, CacheRule(most=1, reserved=350)) == ["a"]
    assert gone(records, CacheRule(free=100), free=1000) == []
    assert gone(records, CacheRule(free=250), free=100) == ["a", "b"]
    assert gone(records, CacheRule(free=10**9), free=0) == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ((), "abc"),
        (("",), "abc"),
        (("type==regular",), "a"),
        ((f"type=={LOCAL}", f"type=={MOUNT}"), "bc"),
        (("id~=^b",), "b"),
        (("id!=b",), "ac"),
        (("description~=RUN,type!=regular",), "bc"),
        (("mutable",), "c"),
        (("mutable==false",), "ab"),
        (("immutable",), "ab"),
        (("shared",), "b"),
        (("private",), "ac"),
        (("inuse",), "a"),
        (("parents==a",), "c"),
        (("nonsense==1",), ""),  # dockerd 28.5 says nothing, either
        (("nonsense~=.*",), ""),
        (("nonsense!=1",), "abc"),
    ],
)
def test_filters(filters: tuple[str, ...], expected: str) -> None:
    records = [
        record("a", in_use=True),
        record("b", type=LOCAL, shared=True),
        record("c", type=MOUNT, mutable=True, parents=("a",)),
    ]
    matches = matcher(filters)
    assert "".join(each.id for each in records if matches(each)) == expected


@pytest.mark.parametrize("text", ["id~=(", "==", "id~=" + "x" * 600])
def test_filters_of_no_sense(text: str) -> None:
    with pytest.raises(InvalidArgument):
        matcher((text,))


def test_the_apis_filters() -> None:
    assert from_api({}) == ()
    (text,) = from_api({"id": ["ab.c"], "type": ["regular"], "inuse": []})
    assert matcher((text,))(record("xab.cx", in_use=True))
    assert not matcher((text,))(record("xab-cx", in_use=True))
    with pytest.raises(InvalidArgument, match="invalid filter 'x'"):
        from_api({"x": ["y"]})
    with pytest.raises(InvalidArgument):
        from_api({"id": ["a", "b"]})


def test_the_usual_rules() -> None:
    temporary, old, unshared, everything = default_rules(100 * 10**9)
    assert temporary.unused_for == 48 * HOUR and temporary.most >= 512 * 10**6
    assert old.unused_for == 60 * 24 * HOUR and old.reserved == 10 * 10**9
    assert (unshared.all, everything.all) == (False, True)
    context = record("context", age=49, size=10**12, type=LOCAL)
    assert gone([context, record("layer", age=49)], temporary) == ["context"]


def test_configured_rules() -> None:
    made = _builder(
        {
            "gc": {
                "enabled": True,
                "policy": [
                    {"filter": ["unused-for=2h", "type=source.local"], "maxUsedSpace": "1GB"},
                    {"all": True},
                ],
            }
        }
    )
    first, second = rules(made, 0)
    assert first == CacheRule(filters=("type==source.local",), unused_for=2 * HOUR, most=1 << 30)
    assert second == CacheRule(all=True)
    assert made.entitlements == {"network.host"}
    assert rules(_builder({"gc": {"enabled": False}}), 0) == ()
    (_, _, third, _) = rules(_builder({"gc": {"defaultKeepStorage": "5GB"}}), 0)
    assert third.reserved == 5 << 30
    assert rules(BuilderConfig(), 10**12) == default_rules(10**12)
