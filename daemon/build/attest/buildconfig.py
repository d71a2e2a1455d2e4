"""A definition as provenance has it: its operations as JSON, in an order in which inputs come first. Pure.

Go names the members after the .proto file of BuildKit, which mixes spellings; enumerations are numbers, bytes base64.

Source: BuildKit solver/llbsolver/provenance/buildconfig.go, solver/pb/json.go, solver/pb/ops.proto.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from storage.errors import InvalidArgument

if TYPE_CHECKING:
    from daemon.build.dockerfile.source import Source as Text
    from daemon.build.graph import Output
    from daemon.build.proto import ops_pb2 as pb

Json = dict[str, Any]
_NAMES = {
    ("CacheOpt", "id"): "ID", ("SSHOpt", "id"): "ID", ("SecretEnv", "id"): "ID", ("SecretOpt", "id"): "ID",
    ("BuildOp", "definition"): "def", ("Definition", "ops"): "def", ("Definition", "source"): "Source",
    ("ExportCache", "value"): "Value", ("HostIP", "host"): "Host", ("HostIP", "ip"): "IP",
    ("Mount", "tmpfs_opt"): "TmpfsOpt", ("Mount", "ssh_opt"): "SSHOpt", ("Mount", "result_id"): "resultID",
    ("Platform", "architecture"): "Architecture", ("Platform", "os"): "OS", ("Platform", "variant"): "Variant",
    ("Platform", "os_version"): "OSVersion", ("Platform", "os_features"): "OSFeatures",
    ("Ulimit", "name"): "Name", ("Ulimit", "soft"): "Soft", ("Ulimit", "hard"): "Hard",
    ("UserOpt", "by_id"): "byId",
}  # fmt: skip
_KEPT = frozenset(
    (
        "proxy_env",
        "http_proxy",
        "https_proxy",
        "ftp_proxy",
        "no_proxy",
        "all_proxy",
        "include_patterns",
        "exclude_patterns",
        "required_paths",
    )
)
"""Members whose names have underscores there as well."""
_ALWAYS = {"FileAction": ("input", "secondary_input", "output"), "DiffOp": ("lower", "upper")}
"""Members that are written even when they are zero."""
_GROUPS = {"Op": "Op", "FileAction": "Action", "UserOpt": "User"}
"""Messages whose one-of is an object of its own."""
_OURS_ALONE = ("local.session", "local.unique")
"""Attributes of sources that tell this build from others."""


class Steps:
    """The operations of a definition. InvalidArgument when it is none."""

    def __init__(self, definition: pb.Definition) -> None:
        from daemon.build.proto import ops_pb2 as pb

        self._ops: dict[str, pb.Op] = {}
        last = ""
        for body in definition.ops:
            last = "sha256:" + hashlib.sha256(body).hexdigest()
            self._ops[last] = pb.Op.FromString(body)
        self.order = self._ordered(last) if last else []
        self.places = {digest: place for place, digest in enumerate(self.order)}

    def _ordered(self, last: str) -> list[str]:
        """Depth first, inputs before those that use them; without recursion."""
        found: dict[str, None] = {}
        stack = [(last, iter(self._inputs(last)))]
        entered = {last}
        while stack:
            digest, rest = stack[-1]
            below = next((each for each in rest if each not in found), None)
            if below is None:
                stack.pop()
                found[digest] = None
            elif below in entered:
                raise InvalidArgument("a definition that goes round in a circle")
            else:
                entered.add(below)
                stack.append((below, iter(self._inputs(below))))
        return list(found)

    def _inputs(self, digest: str) -> list[str]:
        if digest not in self._ops:
            raise InvalidArgument(f"failed to find input {digest}")
        return [each.digest for each in self._ops[digest].inputs]

    def definition(self) -> list[Json]:
        """`llbDefinition`."""
        steps = []
        for place, digest in enumerate(self.order):
            op = self._ops[digest]
            step: Json = {"id": f"step{place}", "op": _operation(op)}
            if op.inputs:
                step["inputs"] = [f"step{self.places[each.digest]}:{each.index}" for each in op.inputs]
            steps.append(step)
        return steps

    def mapping(self) -> dict[str, str]:
        """`digestMapping`."""
        return {digest: f"step{place}" for digest, place in sorted(self.places.items())}


def _operation(op: pb.Op) -> Json:
    copy = type(op)()
    copy.CopyFrom(op)
    del copy.inputs[:]
    if copy.HasField("source"):
        for name in _OURS_ALONE:
            copy.source.attrs.pop(name, None)
    return message(copy)


def source(definition: pb.Definition, places: Mapping[str, int]) -> Json | None:
    """`source` of the metadata: the Dockerfile, and which lines each step is of. None when nobody said."""
    if not definition.HasField("source") or not definition.source.infos:
        return None
    infos = []
    for info in definition.source.infos:
        steps = Steps(info.definition)
        shown: Json = {
            "filename": info.filename,
            "language": info.language,
            "data": base64.b64encode(info.data).decode(),
            "llbDefinition": steps.definition(),
            "digestMapping": steps.mapping(),
        }
        infos.append({name: value for name, value in shown.items() if value})
    locations = {
        f"step{places[digest]}": message(each)
        for digest, each in definition.source.locations.items()
        if digest in places
    }
    return {"locations": dict(sorted(locations.items())), "infos": infos}


def told(known: Mapping[tuple[str, int], Output], places: Mapping[str, int]) -> Json | None:
    """The same of a graph whose front end was here: its vertices know their lines."""
    texts: dict[Text, int] = {}
    locations: dict[str, Json] = {}
    for (digest, _), output in known.items():
        about = output.vertex.about
        if digest not in places:
            continue
        location: Json = {}
        if about.text is not None and about.span is not None and about.span.first:
            number = texts.setdefault(about.text, len(texts))
            lines = {"start": {"line": about.span.first}, "end": {"line": about.span.last}}
            place = {"sourceIndex": number} if number else {}
            location = {"locations": [{**place, "ranges": [lines]}]}
        locations[f"step{places[digest]}"] = location
    if not texts:
        return None
    infos = [
        {"filename": text.name, "language": "Dockerfile", "data": base64.b64encode(_body(text)).decode()}
        for text in texts
    ]
    return {"locations": dict(sorted(locations.items())), "infos": infos}


def _body(text: Text) -> bytes:
    return "\n".join(text.lines).encode("utf-8", "surrogateescape")


def message(value: Any) -> Json:
    """Any message as BuildKit's JSON has it."""
    kind = value.DESCRIPTOR.name
    shown: Json = {}
    if kind in _GROUPS:
        shown[_GROUPS[kind]] = {}
    for name in _ALWAYS.get(kind, ()):
        shown[_spelled(kind, name)] = _scalar(value, name)
    for field, member in value.ListFields():
        place = shown[_GROUPS[kind]] if field.containing_oneof is not None and kind in _GROUPS else shown
        place[_spelled(kind, field.name)] = _value(field, member)
    return shown


def _scalar(value: Any, name: str) -> Any:
    found = getattr(value, name)
    return message(found) if hasattr(found, "DESCRIPTOR") else found


def _value(field: Any, member: Any) -> Any:
    entry = field.message_type
    if entry is not None and entry.GetOptions().map_entry:
        return {str(key): _single(each) for key, each in sorted(member.items())}
    if isinstance(member, str | bytes | int | float) or hasattr(member, "DESCRIPTOR"):
        return _single(member)
    assert isinstance(member, Iterable)
    return [_single(each) for each in member]


def _single(value: Any) -> Any:
    if hasattr(value, "DESCRIPTOR"):
        return message(value)
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


def _spelled(kind: str, name: str) -> str:
    known = _NAMES.get((kind, name))
    if known is not None:
        return known
    if name in _KEPT:
        return name
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)
