"""BuildKit definitions written by hand, as clients with front ends of their own write them."""

from __future__ import annotations

import hashlib
from typing import Any

from daemon.build.proto import ops_pb2 as pb


class Writer:
    """A definition under construction; `add` gives an operation's digest."""

    def __init__(self) -> None:
        self.definition = pb.Definition()

    def add(self, operation: pb.Op, *inputs: tuple[str, int]) -> str:
        operation.inputs.extend(pb.Input(digest=digest, index=index) for digest, index in inputs)
        data = operation.SerializeToString(deterministic=True)
        self.definition.ops.append(data)
        return "sha256:" + hashlib.sha256(data).hexdigest()

    def end(self, digest: str, index: int = 0) -> pb.Definition:
        self.add(pb.Op(), (digest, index))
        return self.definition

    def busybox(self) -> str:
        identifier = "docker-image://docker.io/library/busybox:latest"
        return self.add(
            pb.Op(source=pb.SourceOp(identifier=identifier, attrs={"image.resolvemode": "local"}))
        )

    def files(self, **contents: str) -> str:
        actions = []
        for number, (name, text) in enumerate(contents.items()):
            made = pb.FileActionMkFile(path=f"/{name}", data=text.encode(), mode=0o644, timestamp=-1)
            last = number == len(contents) - 1
            actions.append(
                pb.FileAction(input=number - 1, secondary_input=-1, output=0 if last else -1, mkfile=made)
            )
        return self.add(pb.Op(file=pb.FileOp(actions=actions)))

    def run(self, script: str, *inputs: tuple[str, int], mounts: Any = (), **meta: Any) -> str:
        root = pb.Mount(input=0, dest="/", output=0)
        given = pb.Meta(args=["/bin/sh", "-c", script], env=["PATH=/bin"], cwd="/", **meta)
        return self.add(pb.Op(exec=pb.ExecOp(meta=given, mounts=[*(mounts or [root])])), *inputs)
