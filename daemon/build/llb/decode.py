"""A definition to vertices. What clients send is checked here: what means nothing is InvalidArgument.

An operation of the wire may become several vertices (a File operation whose actions branch), and its outputs may
have other numbers here (a process's root is always output 0); the `Known` table says what became of each.

Source: BuildKit solver/llbsolver/vertex.go, client/llb.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from google.protobuf.message import DecodeError

from daemon.build.dockerfile.source import Source as Text
from daemon.build.dockerfile.source import Span
from daemon.build.graph import About, Diff, Merge, Operation, Output, Source, Vertex
from daemon.build.llb.known import Known
from daemon.build.llb.names import of_operation
from daemon.build.llb.platform import text_of
from daemon.build.proto import ops_pb2 as pb
from storage.errors import InvalidArgument, NotImplementedYet

MAX_OPERATIONS = 50_000
CUSTOM_NAME = "llb.customname"


class Decoder:
    def __init__(self, definition: pb.Definition, known: Known) -> None:
        self._definition, self._known = definition, known
        self._operations: dict[str, pb.Op] = {}
        self._texts: dict[int, Text] = {}
        self._last = ""

    def run(self) -> Output | None:
        """The output that the definition is about; None is scratch."""
        if not self._definition.ops:
            return None
        if len(self._definition.ops) > MAX_OPERATIONS:
            raise InvalidArgument(f"a definition of more than {MAX_OPERATIONS} operations")
        for data in self._definition.ops:
            self._last = "sha256:" + hashlib.sha256(data).hexdigest()
            try:
                self._operations[self._last] = pb.Op.FromString(data)
            except DecodeError as error:
                raise InvalidArgument(f"failed to parse llb proto op: {error}") from None
        last = self._operations[self._last]
        if last.WhichOneof("op") is not None or len(last.inputs) != 1:
            raise InvalidArgument("invalid LLB: its last operation must name one output")
        for digest in self._ordered(last.inputs[0].digest):
            self._vertex(digest)
        return self._output(last.inputs[0])

    def _ordered(self, top: str) -> list[str]:
        """Inputs first; what is known already is not looked at again. No recursion: clients decide the depth."""
        done: dict[str, None] = {}
        stack = [(top, iter(self._inputs(top)))]
        while stack:
            digest, rest = stack[-1]
            below = next(rest, None)
            if below is None:
                stack.pop()
                done[digest] = None
            elif below not in done:
                stack.append((below, iter(self._inputs(below))))
        return list(done)

    def _inputs(self, digest: str) -> list[str]:
        operation = self._operations.get(digest)
        if operation is None:
            if (digest, 0) in self._known:
                return []
            raise InvalidArgument(f"invalid missing input digest {digest}")
        return [each.digest for each in operation.inputs]

    def _output(self, wanted: pb.Input) -> Output:
        found = self._known.get((wanted.digest, wanted.index))
        if found is None:
            raise InvalidArgument(f"invalid output {wanted.index} of {wanted.digest}")
        return found

    def _vertex(self, digest: str) -> None:
        operation = self._operations.get(digest)
        if operation is None or (digest, 0) in self._known:
            return
        inputs = [self._output(each) for each in operation.inputs]
        metadata = self._definition.metadata.get(digest, None)
        about = self._about(digest, operation, metadata)
        made = self._made(operation, inputs, about)
        for number, output in made.items():
            self._known[digest, number] = output

    def _made(self, operation: pb.Op, inputs: list[Output], about: About) -> Mapping[int, Output]:
        """Numbers of outputs on the wire to outputs here."""
        from daemon.build.llb.decodeexec import decode_exec
        from daemon.build.llb.decodefile import decode_file

        def given(number: int) -> Output | None:
            if number >= len(inputs):
                raise InvalidArgument(f"invalid input {number}: there are {len(inputs)}")
            return inputs[number] if number >= 0 else None

        def single(made: Operation, *used: Output | None) -> dict[int, Output]:
            return {0: Output(Vertex(made, used, about))}

        match operation.WhichOneof("op"):
            case "source":
                attributes = tuple(sorted(operation.source.attrs.items()))
                source = Source(operation.source.identifier, attributes, text_of(operation.platform))
                return single(source if _has_platform(source) else Source(source.identifier, attributes))
            case "exec":
                return decode_exec(operation, given, about)
            case "file":
                return decode_file(operation.file, inputs, about)
            case "merge":
                if len(operation.merge.inputs) < 2:
                    raise InvalidArgument("a merge of fewer than two inputs")
                return single(Merge(), *(given(each.input) for each in operation.merge.inputs))
            case "diff":
                diff = operation.diff
                lower = given(diff.lower.input) if diff.HasField("lower") else None
                upper = given(diff.upper.input) if diff.HasField("upper") else None
                return single(Diff(), lower, upper)
            case "build":
                raise NotImplementedYet("builds nested in a definition (BuildOp)")
        raise InvalidArgument("invalid empty operation in a definition")

    def _about(self, digest: str, operation: pb.Op, metadata: pb.OpMetadata | None) -> About:
        name = metadata.description.get(CUSTOM_NAME, "") if metadata else ""
        group = metadata.progress_group.id if metadata and metadata.HasField("progress_group") else ""
        no_cache = bool(metadata and metadata.ignore_cache)
        text, span = self._place(digest)
        return About(name or of_operation(operation), span, "", no_cache, group, text)

    def _place(self, digest: str) -> tuple[Text | None, Span | None]:
        """Which lines of which file the operation is of."""
        source = self._definition.source
        if digest not in source.locations:
            return None, None
        for location in source.locations[digest].locations:
            for each in location.ranges:
                text = self._text(location.source_index)
                return text, Span(each.start.line, max(each.start.line, each.end.line))
        return None, None

    def _text(self, number: int) -> Text | None:
        infos = self._definition.source.infos
        if not 0 <= number < len(infos):
            return None
        if number not in self._texts:
            data = infos[number].data.decode("utf-8", "surrogateescape")
            self._texts[number] = Text(infos[number].filename, tuple(data.split("\n")))
        return self._texts[number]


def _has_platform(source: Source) -> bool:
    return source.identifier.startswith(("docker-image://", "oci-layout://"))
