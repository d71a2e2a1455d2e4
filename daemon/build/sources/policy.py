"""Rules of the client's about what its build may read, and what it reads instead. Pure.

    ALLOW, DENY   the last rule of a policy that matches decides; where none does, the source is allowed
    CONVERT       another identifier, more attributes; then all rules are asked again

A selector matches a source's identifier (as it is, as a wildcard with `*`, as a regular expression) and attributes.
What a wildcard or an expression caught can stand in the new identifier as $1. An EXACT selector changes attributes
only, as in BuildKit.

Source: BuildKit sourcepolicy (engine.go, matcher.go, formatter.go, mutate.go), util/wildcard, Go's regexp.Expand.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

from daemon.build.graph import Output, Source, Vertex, ordered
from daemon.build.proto import policy_pb2 as pb
from storage.errors import Forbidden, InvalidArgument

TURNS = 20
"""Conversions of one source before it is taken for a circle."""
_VARIABLE = re.compile(r"\$(?:(?P<escaped>\$)|(?P<name>\w+)|\{(?P<braced>\w+)\})", re.ASCII)
_AS_GO_SAYS = {
    "missing ), unterminated subpattern": "missing closing )",
    "unterminated character set": "missing closing ]",
    "unbalanced parenthesis": "unexpected )",
    "nothing to repeat": "missing argument to repetition operator",
}


def check(policy: pb.Policy) -> None:
    """InvalidArgument for one that says nothing sensible, before anything is built."""
    if not all(rule.HasField("selector") for rule in policy.rules):
        raise InvalidArgument("invalid nil selector in policy")


class SourcePolicies:
    """One build's, asked in their order."""

    def __init__(self, *policies: pb.Policy) -> None:
        for policy in policies:
            check(policy)
        self._policies = policies

    def and_also(self, policies: Sequence[pb.Policy]) -> SourcePolicies:
        return SourcePolicies(*self._policies, *policies) if policies else self

    def evaluate(self, identifier: str, attributes: Mapping[str, str]) -> tuple[str, dict[str, str]]:
        """What is to be read instead. Forbidden when it is denied, or the rules can't be followed."""
        found = (identifier, dict(attributes))
        for _ in range(TURNS + 1):
            changed = self._turn(*found)
            if changed is None:
                return found
            found = changed
        raise Forbidden("too many mutations on a single source: too many operations")

    def applied(self, outputs: Sequence[Output | None]) -> list[Output | None]:
        """The graphs with the sources that may be read. Raises as evaluate()."""
        made: dict[str, Vertex] = {}
        for vertex in ordered(outputs):
            inputs = tuple(_moved(each, made) for each in vertex.inputs)
            operation = vertex.operation
            if isinstance(operation, Source):
                operation = self._source(operation)
            same = operation is vertex.operation and inputs == vertex.inputs
            made[vertex.digest] = vertex if same else Vertex(operation, inputs, vertex.about)
        return [_moved(each, made) for each in outputs]

    def _source(self, source: Source) -> Source:
        try:
            identifier, attributes = self.evaluate(source.identifier, dict(source.attributes))
        except Forbidden as error:
            raise Forbidden(f"failed to load LLB: error evaluating the source policy: {error}") from None
        if (identifier, attributes) == (source.identifier, dict(source.attributes)):
            return source
        return replace(source, identifier=identifier, attributes=tuple(sorted(attributes.items())))

    def _turn(self, identifier: str, attributes: dict[str, str]) -> tuple[str, dict[str, str]] | None:
        """The source that it became by the first rule that changes it; None when all policies let it be."""
        for policy in self._policies:
            denied = False
            for rule in policy.rules:
                if not _matches(rule.selector, identifier, attributes):
                    continue
                if rule.action == pb.CONVERT:
                    changed = _converted(rule, identifier, attributes)
                    if changed != (identifier, attributes):
                        return changed
                elif rule.action in (pb.ALLOW, pb.DENY):
                    denied = rule.action == pb.DENY
                else:
                    shown = f"{rule.action} {rule.selector.identifier}"
                    raise Forbidden(f'source policy: rule {shown}: unknown type "{identifier}"')
            if denied:
                raise Forbidden(f'source "{identifier}" denied by policy: source denied by policy')
        return None


def _moved(output: Output | None, made: Mapping[str, Vertex]) -> Output | None:
    if output is None or (vertex := made[output.vertex.digest]) is output.vertex:
        return output
    return Output(vertex, output.index)


def _matches(selector: pb.Selector, identifier: str, attributes: Mapping[str, str]) -> bool:
    if not all(_holds(each, attributes.get(each.key, "")) for each in selector.constraints):
        return False
    if selector.identifier == identifier:
        return True
    if selector.match_type == pb.EXACT:
        return False
    return _pattern(selector).search(identifier) is not None


def _holds(constraint: pb.AttrConstraint, value: str) -> bool:
    if constraint.condition == pb.EQUAL:
        return value == constraint.value
    if constraint.condition == pb.NOTEQUAL:
        return value != constraint.value
    try:
        return _compiled(constraint.value).search(value) is not None
    except Forbidden as error:
        reason = str(error).removeprefix("error matching source policy: ")
        text = f'error matching source policy: invalid regex "{constraint.value}": {reason}'
        raise Forbidden(text) from None


def _converted(rule: pb.Rule, identifier: str, attributes: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    if not rule.HasField("updates"):
        raise Forbidden("error mutating source policy: missing destination for convert rule")
    wanted = rule.updates.identifier or rule.selector.identifier
    named = _formatted(rule.selector, identifier, wanted) or identifier
    return named, {**attributes, **rule.updates.attrs}


def _formatted(selector: pb.Selector, identifier: str, template: str) -> str:
    if selector.match_type == pb.EXACT:
        return selector.identifier
    pattern = _pattern(selector)
    if selector.match_type == pb.REGEX:
        return pattern.sub(lambda match: _expanded(template, match), identifier)
    match = pattern.search(identifier)
    return _expanded(template, match) if match else identifier


def _expanded(template: str, match: re.Match[str]) -> str:
    """`$1`, `${1}`, `$name`; what the pattern has not is empty, `$$` is a dollar."""

    def value(variable: re.Match[str]) -> str:
        if variable["escaped"]:
            return "$"
        name = variable["name"] or variable["braced"]
        try:
            return match[int(name) if name.isdigit() else name] or ""
        except IndexError:
            return ""

    return _VARIABLE.sub(value, template)


def _pattern(selector: pb.Selector) -> re.Pattern[str]:
    if selector.match_type not in (pb.WILDCARD, pb.REGEX):
        raise Forbidden(f"error matching source policy: unknown match type: {selector.match_type}")
    if selector.match_type == pb.REGEX:
        return _compiled(selector.identifier)
    if "**" in selector.identifier:
        text = f'failed to translate wildcard "{selector.identifier}" to regexp: invalid wildcard: "**"'
        raise Forbidden(f"error matching source policy: {text}")
    return _compiled("^" + "(.*)".join(map(re.escape, selector.identifier.split("*"))) + r"\Z")


@lru_cache(maxsize=64)
def _compiled(text: str) -> re.Pattern[str]:
    """Go's expressions are Python's but for classes and flags that nobody writes for names."""
    try:
        return re.compile(text.replace(r"\z", r"\Z"))
    except (re.error, RecursionError, OverflowError) as error:
        said = getattr(error, "msg", str(error))
        known = next((ours for theirs, ours in _AS_GO_SAYS.items() if said.startswith(theirs)), said)
        raise Forbidden(f"error matching source policy: error parsing regexp: {known}: `{text}`") from None
