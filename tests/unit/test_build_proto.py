"""The modules of BuildKit's messages are what the .proto files say; the wire is BuildKit's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROTO = ROOT / "daemon" / "build" / "proto"


def test_modules_are_generated_from_the_files(tmp_path: Path) -> None:
    """Renew them with: make proto"""
    files = sorted(str(path.relative_to(ROOT)) for path in PROTO.glob("*.proto"))
    protoc = [sys.executable, "-m", "grpc_tools.protoc", "-I."]
    subprocess.run(
        [*protoc, f"--python_out={tmp_path}", f"--pyi_out={tmp_path}", *files], cwd=ROOT, check=True
    )
    made = {path.name: path.read_text() for path in (tmp_path / "daemon/build/proto").iterdir()}
    kept = {path.name: path.read_text() for path in PROTO.glob("*_*.py*") if path.name != "__init__.py"}
    assert made == kept


def test_the_wire_is_buildkits() -> None:
    """Bytes as BuildKit's Go code writes them for llb.Image("busybox") and a status of one vertex."""
    from daemon.build.proto import control_pb2, ops_pb2

    source = ops_pb2.Op(source=ops_pb2.SourceOp(identifier="docker-image://docker.io/library/busybox:latest"))
    assert source.SerializeToString() == b"\x1a\x31\x0a\x2fdocker-image://docker.io/library/busybox:latest"
    response = control_pb2.StatusResponse(vertexes=[control_pb2.Vertex(digest="a", name="b", cached=True)])
    assert response.SerializeToString() == b"\x0a\x08\x0a\x01a\x1a\x01b\x20\x01"
    assert control_pb2.DESCRIPTOR.services_by_name["Control"].full_name == "moby.buildkit.v1.Control"
