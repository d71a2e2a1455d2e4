"""A build's error as BuildKit's clients want it: a sentence, and details from which they draw the excerpt.

Details are JSON under the names that BuildKit's clients register (solver/errdefs, util/grpcerrors).
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Sequence
from typing import Any

from daemon.build.dockerfile.source import DockerfileError, Source, Span, place_of
from daemon.build.doors.bridge import Stopped
from daemon.build.doors.fronts import Failed, UnsupportedCap, UnsupportedSubrequest
from daemon.build.graph import Output, Vertex
from daemon.build.proto import rpc_pb2
from daemon.build.solver.processes import Left, ProcessFailed
from daemon.build.solver.solve import StepFailed
from daemon.build.steps import CANCELED
from storage.errors import NotFound, NotImplementedYet, PydError

CANCELLED, UNKNOWN, NOT_FOUND, UNIMPLEMENTED, INTERNAL = 1, 2, 5, 12, 13
_TYPES = "github.com/moby/buildkit/errdefs.{}+json"
_WHOLE = 16 << 10
"""Characters of a Dockerfile that errors bring along whole."""
_AROUND = 10
Json = dict[str, Any]


def status(error: BaseException) -> rpc_pb2.Status:
    """The gRPC status. Most are UNKNOWN, whose sentence clients print without a code before it."""
    if isinstance(error, Failed):
        return _returned(error)
    if isinstance(error, asyncio.CancelledError | Stopped):
        return rpc_pb2.Status(code=CANCELLED, message=CANCELED)
    found = rpc_pb2.Status(code=_code(error), message=sentence(error))
    for name, detail in _details(error):
        found.details.add(type_url=_TYPES.format(name), value=json.dumps(detail).encode())
    return found


def _returned(error: Failed) -> rpc_pb2.Status:
    """As it came; and where the file is that named the front end, if the front end told of no place."""
    returned: rpc_pb2.Status = error.returned
    if (place := place_of(error)) is None:
        return returned
    found = rpc_pb2.Status.FromString(returned.SerializeToString())
    found.details.add(type_url=_TYPES.format("Source"), value=json.dumps(excerpt(*place)).encode())
    return found


def sentence(error: BaseException) -> str:
    """Without the excerpt, which the client draws."""
    cause = error.cause if isinstance(error, StepFailed) else error
    text = cause.sentence if isinstance(cause, DockerfileError) else str(cause)
    return text.encode("utf-8", "replace").decode() or type(error).__name__


def _code(error: BaseException) -> int:
    if isinstance(error, NotImplementedYet | UnsupportedSubrequest | UnsupportedCap):
        return UNIMPLEMENTED if isinstance(error, NotImplementedYet) else UNKNOWN
    if isinstance(error, NotFound) and str(error).startswith("no such job"):
        return NOT_FOUND
    return UNKNOWN if isinstance(error, PydError | OSError) else INTERNAL


def _details(error: BaseException) -> list[tuple[str, Json]]:
    """Outermost first."""
    if isinstance(error, UnsupportedSubrequest):
        return [("Subrequest", {"name": error.name})]
    if isinstance(error, UnsupportedCap):
        return [("FrontendCap", {"name": error.name})]
    if (place := place_of(error)) is not None:
        return [("Source", excerpt(*place))]
    if isinstance(error, StepFailed):
        details: list[tuple[str, Json]] = []
        about = error.vertex.about
        if about.text is not None and about.span is not None:
            details.append(("Source", excerpt(about.text, [about.span])))
        if isinstance(error.cause, ProcessFailed) and error.cause.left is not None:
            details.append(("Solve", _solve(error.vertex, error.cause.left)))
        return [*details, ("Vertex", {"digest": error.vertex.digest})]
    return []


def _solve(vertex: Vertex, left: Left) -> Json:
    """errdefs.Solve: the operation, and by what its mounts can be had again, as they were and as they are."""
    from google.protobuf import json_format

    from daemon.build import llb
    from daemon.build.proto import errdefs_pb2
    from daemon.build.proto import ops_pb2 as pb

    *_, encoded, _ = llb.encode(Output(vertex)).ops
    told = errdefs_pb2.Solve(input_ids=left.inputs, mount_ids=left.mounts, op=pb.Op.FromString(encoded))
    if vertex.about.name:
        told.description["llb.customname"] = vertex.about.name
    found: Json = json_format.MessageToDict(told)
    return found


def excerpt(source: Source, spans: Sequence[Span]) -> Json:
    """errdefs.Source: the file, and which lines of it."""
    text = "\n".join(_near(source.lines, spans)).encode("utf-8", "surrogateescape")
    ranges = [{"start": {"line": span.first}, "end": {"line": span.last}} for span in spans if span.first]
    info = {"filename": source.name, "data": base64.b64encode(text).decode(), "language": "Dockerfile"}
    return {"info": info, "ranges": ranges}


def _near(lines: Sequence[str], spans: Sequence[Span]) -> Sequence[str]:
    """A large file's lines but for those that no excerpt shows: all of it travels in one header."""
    if sum(map(len, lines)) < _WHOLE:
        return lines
    shown = {n for span in spans for n in range(span.first - _AROUND, span.last + _AROUND)}
    return [line[:_WHOLE] if number in shown else "" for number, line in enumerate(lines, 1)]
