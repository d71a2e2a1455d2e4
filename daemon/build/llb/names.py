"""What operations are called when nobody gave them a name (solver/llbsolver/vertex.go)."""

from __future__ import annotations

from daemon.build.proto import ops_pb2 as pb


def of_operation(operation: pb.Op) -> str:
    match operation.WhichOneof("op"):
        case "source":
            return operation.source.identifier
        case "exec":
            return " ".join(operation.exec.meta.args)
        case "file":
            return ", ".join(of_action(each) for each in operation.file.actions)
        case None:
            return ""
        case other:
            return str(other)


def of_action(action: pb.FileAction) -> str:
    match action.WhichOneof("action"):
        case "copy":
            return f"copy {action.copy.src} {action.copy.dest}"
        case "mkfile":
            return f"mkfile {action.mkfile.path}"
        case "mkdir":
            return f"mkdir {action.mkdir.path}"
        case "rm":
            return f"rm {action.rm.path}"
        case "symlink":
            return f"symlink {action.symlink.oldpath} -> {action.symlink.newpath}"
    return ""
