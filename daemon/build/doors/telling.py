"""What a build does, as BuildKit's status messages: one reader's view of a feed (client/graph.go there)."""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.timestamp_pb2 import Timestamp

from daemon.build.proto import control_pb2
from daemon.build.proto import ops_pb2 as pb
from daemon.build.steps import CANCELED, Progress, Remark, Status

_SECOND = 1_000_000_000
MOST = 1 << 20
"""Bytes of logs in one message; clients take 16 MB."""


def moment(nanoseconds: int) -> Timestamp:
    return Timestamp(seconds=nanoseconds // _SECOND, nanos=nanoseconds % _SECOND)


class Teller:
    """Remembers what was told already; `tell` gives the rest."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[str, int, int]] = {}
        self._chunks: dict[str, int] = {}
        self._warnings: dict[str, int] = {}
        self._statuses: dict[tuple[str, str], tuple[int, int, int]] = {}

    def tell(self, changed: Iterable[Progress]) -> list[control_pb2.StatusResponse]:
        """Messages of reasonable size; none when there is nothing new."""
        first = control_pb2.StatusResponse()
        more: list[control_pb2.StatusResponse] = []
        size = 0
        for progress in changed:
            self._vertex(progress, first)
            self._lines(progress, first)
            for remark in progress.warnings[self._warnings.get(progress.digest, 0) :]:
                first.warnings.append(_warning(progress.digest, remark))
            self._warnings[progress.digest] = len(progress.warnings)
            for log in self._logs(progress):
                size += len(log.msg)
                if size > MOST:
                    more.append(control_pb2.StatusResponse())
                    size = len(log.msg)
                (more[-1] if more else first).logs.append(log)
        told = [first, *more]
        return [each for each in told if each.ByteSize()]

    def _vertex(self, progress: Progress, into: control_pb2.StatusResponse) -> None:
        state = progress.state
        if state == "failed" and progress.error == CANCELED and not progress.started:
            return  # it was never begun, and so isn't shown as stopped
        known = (state, progress.started, progress.finished)
        if self._told.get(progress.digest) == known:
            return
        self._told[progress.digest] = known
        vertex = into.vertexes.add(digest=progress.digest, inputs=progress.inputs, name=progress.name)
        if group := progress.vertex.about.group:
            vertex.progress_group.CopyFrom(pb.ProgressGroup(id=group, name=progress.name))
        if started := progress.started or progress.finished:
            vertex.started.CopyFrom(moment(started))
        if progress.over:
            vertex.completed.CopyFrom(moment(progress.finished))
            vertex.cached = state == "cached"
            vertex.error = progress.error.encode("utf-8", "replace").decode() if state == "failed" else ""

    def _lines(self, progress: Progress, into: control_pb2.StatusResponse) -> None:
        for status in list(progress.statuses.values()):
            key, now = (progress.digest, status.id), (status.current, status.total, status.completed)
            if self._statuses.get(key) != now:
                self._statuses[key] = now
                into.statuses.append(_status(progress, status))

    def _logs(self, progress: Progress) -> Iterable[control_pb2.VertexLog]:
        start = self._chunks.get(progress.digest, 0)
        self._chunks[progress.digest] = len(progress.chunks)
        pairs = zip(progress.chunks[start:], progress.moments[start:], strict=True)
        for (stream, data), when in pairs:
            yield control_pb2.VertexLog(
                vertex=progress.digest, timestamp=moment(when), stream=stream, msg=data
            )


def _status(progress: Progress, status: Status) -> control_pb2.VertexStatus:
    made = control_pb2.VertexStatus(
        id=status.id, vertex=progress.digest, name=status.name, current=status.current, total=status.total
    )
    when = status.completed or status.started
    made.timestamp.CopyFrom(moment(when))
    if status.started:
        made.started.CopyFrom(moment(status.started))
    if status.completed:
        made.completed.CopyFrom(moment(status.completed))
    return made


def _warning(digest: str, remark: Remark) -> control_pb2.VertexWarning:
    made = control_pb2.VertexWarning(
        vertex=digest,
        level=remark.level,
        short=remark.short.encode("utf-8", "replace"),
        detail=[each.encode("utf-8", "replace") for each in remark.detail],
        url=remark.url,
    )
    if remark.filename:
        made.info.CopyFrom(pb.SourceInfo(filename=remark.filename, data=remark.text, language="Dockerfile"))
        for span in remark.spans:
            made.ranges.append(pb.Range(start=pb.Position(line=span.first), end=pb.Position(line=span.last)))
    return made
