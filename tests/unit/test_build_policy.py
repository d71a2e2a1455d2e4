"""Rules about sources: what matches, what is denied, what becomes of a source and of the graph that it is in."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.json_format import ParseDict

from daemon.build.graph import Exec, Output, Source, Vertex
from daemon.build.proto.policy_pb2 import Policy
from daemon.build.sources.policy import SourcePolicies
from storage.errors import Forbidden, InvalidArgument

IMAGE = "docker-image://docker.io/library/golang:1.19"


def rules(*rules: dict[str, Any]) -> SourcePolicies:
    return SourcePolicies(ParseDict({"rules": list(rules)}, Policy()))


def rule(action: str, identifier: str, kind: str = "WILDCARD", **more: Any) -> dict[str, Any]:
    constraints = more.pop("constraints", [])
    selector = {"identifier": identifier, "match_type": kind, "constraints": constraints}
    return {"action": action, "selector": selector, **more}


def convert(identifier: str, new: str, kind: str = "WILDCARD", **attrs: str) -> dict[str, Any]:
    return rule("CONVERT", identifier, kind, updates={"identifier": new, "attrs": attrs})


def read(policies: SourcePolicies, identifier: str = IMAGE, **attrs: str) -> str:
    return policies.evaluate(identifier, attrs)[0]


@pytest.mark.parametrize(
    ("given", "allowed"),
    [
        ([rule("DENY", "docker-image://*")], False),
        ([rule("DENY", "docker-image://*alpine*")], True),
        ([rule("DENY", "docker-image")], True),  # a wildcard is of the whole name
        ([rule("DENY", "golang", "REGEX")], False),
        ([rule("DENY", "^golang", "REGEX")], True),
        ([rule("DENY", IMAGE, "EXACT")], False),
        ([rule("DENY", "docker-image://*", "EXACT")], True),
        ([rule("DENY", "*"), rule("ALLOW", "*golang*")], True),  # the last one that matches
        ([rule("ALLOW", "*golang*"), rule("DENY", "*")], False),
        ([rule("DENY", "*[1]*")], True),  # nothing but * is special
    ],
)
def test_who_may_be_read(given: list[dict[str, Any]], allowed: bool) -> None:
    if allowed:
        assert read(rules(*given)) == IMAGE
        return
    with pytest.raises(Forbidden, match=f'source "{IMAGE}" denied by policy: source denied by policy'):
        read(rules(*given))


def test_each_policy_must_allow() -> None:
    both = rules(rule("DENY", "*"), rule("ALLOW", "*golang*")).and_also(
        [ParseDict({"rules": [rule("DENY", "*1.19")]}, Policy())]
    )
    with pytest.raises(Forbidden):
        read(both)


@pytest.mark.parametrize(
    ("condition", "value", "denied"),
    [
        ("EQUAL", "main", True), ("EQUAL", "x", False), ("NOTEQUAL", "x", True), ("NOTEQUAL", "main", False),
        ("MATCHES", "^ma", True), ("MATCHES", "^x", False),
    ],
)  # fmt: skip
def test_constraints_on_attributes(condition: str, value: str, denied: bool) -> None:
    constraint = {"key": "git.branch", "value": value, "condition": condition}
    policies = rules(rule("DENY", "git://*", constraints=[constraint]))
    if not denied:
        read(policies, "git://a/b", **{"git.branch": "main"})
        return
    with pytest.raises(Forbidden):
        read(policies, "git://a/b", **{"git.branch": "main"})


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (convert(IMAGE, f"{IMAGE}@sha256:00"), f"{IMAGE}@sha256:00"),
        (convert("docker-image://*/golang:*", "docker-image://mirror/$1/go:${2}-alpine"),
         "docker-image://mirror/docker.io/library/go:1.19-alpine"),
        (convert("*", "$1x$$y$"), "$y$"),  # $1x is a name, and the source has none such
        (convert(r"golang:(?P<tag>.*)", "go:${tag}", "REGEX"), "docker-image://docker.io/library/go:1.19"),
        (convert(IMAGE, "docker-image://other", "EXACT"), IMAGE),  # so it is there as well
        (convert("docker-image://*alpine*", "docker-image://other"), IMAGE),
    ],
)  # fmt: skip
def test_conversions(made: dict[str, Any], expected: str) -> None:
    assert read(rules(made)) == expected


def test_what_was_converted_is_asked_about_again() -> None:
    first = convert("docker-image://*golang*", "docker-image://mirror/go")
    assert read(rules(first, convert("docker-image://mirror/*", "docker-image://last/$1"))) == (
        "docker-image://last/go"
    )
    with pytest.raises(Forbidden, match="denied by policy"):
        read(rules(first, rule("DENY", "docker-image://mirror/*")))
    with pytest.raises(Forbidden, match="too many mutations on a single source: too many operations"):
        read(rules(first, convert("docker-image://mirror/*", IMAGE)))


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (rule("CONVERT", IMAGE), "error mutating source policy: missing destination for convert rule"),
        (rule("DENY", "(", "REGEX"), "error parsing regexp: missing closing ): `(`"),
        (rule("DENY", "x**"), 'invalid wildcard: "**"'),
        (rule("DENY", "*", constraints=[{"key": "k", "value": "[", "condition": "MATCHES"}]),
         'invalid regex "[": error parsing regexp: missing closing ]'),
    ],
)  # fmt: skip
def test_rules_that_cannot_be_followed(made: dict[str, Any], text: str) -> None:
    with pytest.raises(Forbidden) as error:
        read(rules(made))
    assert text in str(error.value)


def test_a_rule_for_nothing_is_refused_at_once() -> None:
    with pytest.raises(InvalidArgument, match="invalid nil selector in policy"):
        SourcePolicies(Policy(rules=[{"action": 1}]))


def test_a_graph_with_other_sources() -> None:
    kept, changed = (Output(Vertex(Source(name))) for name in ("local://context", "https://a/file"))
    step = Output(Vertex(Exec(("x",), (), "/", ""), (kept, changed, None)))
    policies = rules(
        rule("CONVERT", "https://*", updates={"identifier": "https://${1}", "attrs": {"k": "v"}})
    )
    alone, made, nothing = policies.applied([kept, step, None])
    assert alone is kept and nothing is None
    assert made is not None and made.vertex.digest != step.vertex.digest
    first, second, none = made.vertex.inputs
    assert first is kept and none is None
    assert second is not None
    assert second.vertex.operation == Source("https://a/file", (("k", "v"),))
    (same,) = rules(rule("ALLOW", "*")).applied([step])
    assert same is step
    with pytest.raises(Forbidden, match="failed to load LLB: error evaluating the source policy: source"):
        rules(rule("DENY", "https://*")).applied([step])
