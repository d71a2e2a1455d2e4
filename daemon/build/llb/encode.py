"""Vertices to a definition, as BuildKit's own clients would write it."""

from __future__ import annotations

import hashlib

from daemon.build.graph import (
    CopyFiles,
    Diff,
    Exec,
    ExecMount,
    File,
    Merge,
    Mkdir,
    Mkfile,
    Output,
    Remove,
    Source,
    Symlink,
    Vertex,
    ordered,
)
from daemon.build.llb.known import Known
from daemon.build.llb.platform import message_of
from daemon.build.proto import ops_pb2 as pb

CUSTOM_NAME = "llb.customname"
_NETWORKS = {"host": pb.NetMode.HOST, "none": pb.NetMode.NONE}
_SHARING = {"private": pb.CacheSharingOpt.PRIVATE, "locked": pb.CacheSharingOpt.LOCKED}


class Encoder:
    def __init__(self, known: Known) -> None:
        self._known = known
        self._definition = pb.Definition()
        self._digests: dict[str, str] = {}
        """Vertices' digests to operations'."""

    def run(self, output: Output | None) -> pb.Definition:
        if output is None:
            return self._definition
        for vertex in ordered([output]):
            self._digests[vertex.digest] = digest = self._add(self._operation(vertex))
            self._describe(digest, vertex)
            for number in range(outputs(vertex)):
                self._known[digest, number] = Output(vertex, number)
        last = pb.Op(inputs=[pb.Input(digest=self._digests[output.vertex.digest], index=output.index)])
        self._add(last)
        return self._definition

    def _add(self, operation: pb.Op) -> str:
        data = operation.SerializeToString(deterministic=True)
        self._definition.ops.append(data)
        return "sha256:" + hashlib.sha256(data).hexdigest()

    def _describe(self, digest: str, vertex: Vertex) -> None:
        metadata = self._definition.metadata[digest]
        metadata.ignore_cache = vertex.about.no_cache
        if vertex.about.name:
            metadata.description[CUSTOM_NAME] = vertex.about.name
        if vertex.about.group:
            metadata.progress_group.id = metadata.progress_group.name = vertex.about.group

    def _operation(self, vertex: Vertex) -> pb.Op:
        operation = pb.Op(platform=message_of(getattr(vertex.operation, "platform", "")))
        numbers: dict[int, int] = {}
        for place, each in enumerate(vertex.inputs):
            if each is None:
                numbers[place] = -1
                continue
            numbers[place] = len(operation.inputs)
            operation.inputs.append(pb.Input(digest=self._digests[each.vertex.digest], index=each.index))
        match vertex.operation:
            case Source() as source:
                operation.source.identifier = source.identifier
                operation.source.attrs.update(dict(source.attributes))
            case Exec() as process:
                _exec(operation.exec, process, numbers)
            case File() as file:
                _file(operation.file, file, numbers, len(operation.inputs))
            case Merge():
                operation.merge.inputs.extend(pb.MergeInput(input=number) for number in numbers.values())
            case Diff():
                operation.diff.lower.input, operation.diff.upper.input = numbers[0], numbers[1]
        return operation


def outputs(vertex: Vertex) -> int:
    """How many outputs a vertex has."""
    if not isinstance(vertex.operation, Exec):
        return 1
    return 1 + max((mount.output for mount in vertex.operation.mounts if mount.output > 0), default=0)


# -- processes


def _exec(made: pb.ExecOp, process: Exec, numbers: dict[int, int]) -> None:
    meta = made.meta
    meta.args.extend(process.args)
    meta.env.extend(process.env)
    meta.cwd, meta.user, meta.hostname = process.cwd, process.user, process.hostname
    meta.cgroup_parent = process.cgroup_parent
    meta.ulimit.extend(pb.Ulimit(name=n, soft=s, hard=h) for n, s, h in process.ulimits)
    for text in process.hosts:
        host, _, address = text.partition(":")
        meta.extra_hosts.append(pb.HostIP(host=host, ip=address))
    if process.valid_codes != (0,):
        meta.valid_exit_codes.extend(process.valid_codes)
    for text in process.proxy:
        name, _, value = text.partition("=")
        setattr(meta.proxy_env, name.lower(), value)
    made.network = _NETWORKS.get(process.network, pb.NetMode.UNSET)
    made.security = pb.SecurityMode.INSECURE if process.security == "insecure" else pb.SecurityMode.SANDBOX
    root = made.mounts.add()
    root.input, root.dest, root.readonly = numbers.get(0, -1), "/", process.readonly
    root.output = -1 if process.readonly else 0
    for mount in process.mounts:
        if mount.kind == "secret" and mount.env:
            secret = made.secretenv.add()
            secret.id, secret.name, secret.optional = mount.id, mount.env, not mount.required
        if mount.target:
            _mount(made.mounts.add(), mount, numbers)
    if process.shm_size:
        memory = made.mounts.add()
        memory.input, memory.output, memory.dest = -1, -1, "/dev/shm"
        memory.mount_type, memory.tmpfs_opt.size = pb.MountType.TMPFS, process.shm_size


def _mount(made: pb.Mount, mount: ExecMount, numbers: dict[int, int]) -> None:
    made.input = numbers.get(mount.input, -1) if mount.input >= 0 else -1
    made.selector = "" if mount.source == "/" else mount.source
    made.dest, made.readonly = mount.target, mount.readonly
    made.output = mount.output if mount.output > 0 else -1
    match mount.kind:
        case "cache":
            made.mount_type, made.cache_opt.id = pb.MountType.CACHE, mount.id
            made.cache_opt.sharing = _SHARING.get(mount.sharing, pb.CacheSharingOpt.SHARED)
        case "tmpfs":
            made.mount_type, made.tmpfs_opt.size = pb.MountType.TMPFS, mount.size
        case "secret":
            made.mount_type = pb.MountType.SECRET
            opt = made.secret_opt
            opt.id, opt.uid, opt.gid, opt.optional = mount.id, mount.uid, mount.gid, not mount.required
            opt.mode = 0o400 if mount.mode is None else mount.mode
        case "ssh":
            made.mount_type = pb.MountType.SSH
            agent = made.ssh_opt
            agent.id, agent.uid, agent.gid, agent.optional = (
                mount.id,
                mount.uid,
                mount.gid,
                not mount.required,
            )
            agent.mode = 0o600 if mount.mode is None else mount.mode


# -- files


def _file(made: pb.FileOp, file: File, numbers: dict[int, int], count: int) -> None:
    """One action a source; each upon what the one before made."""
    before = numbers[0]
    for action in file.actions:
        sources = action.sources if isinstance(action, CopyFiles) else ("",)
        for source in sources:
            each = made.actions.add()
            each.input, each.secondary_input, each.output = before, -1, -1
            before = count + len(made.actions) - 1
            match action:
                case CopyFiles():
                    each.secondary_input = numbers[action.input]
                    _copy(each.copy, action, source)
                case Mkdir():
                    each.mkdir.path, each.mkdir.mode = action.path, action.mode
                    each.mkdir.make_parents, each.mkdir.timestamp = action.parents, action.time
                    _owner(each.mkdir.owner, action.owner, numbers[0])
                case Mkfile():
                    each.mkfile.path, each.mkfile.mode = action.path, action.mode
                    each.mkfile.data = action.data.encode("utf-8", "surrogateescape")
                    each.mkfile.timestamp = action.time
                    _owner(each.mkfile.owner, action.owner, numbers[0])
                case Symlink():
                    each.symlink.newpath, each.symlink.oldpath = action.path, action.target
                    each.symlink.timestamp = action.time
                    _owner(each.symlink.owner, action.owner, numbers[0])
                case Remove():
                    each.rm.path = action.path
                    each.rm.allow_not_found, each.rm.allow_wildcard = action.missing_ok, action.wildcard
    made.actions[-1].output = 0


def _copy(made: pb.FileActionCopy, action: CopyFiles, source: str) -> None:
    made.src, made.dest, made.timestamp, made.mode = source, action.target, action.time, -1
    if action.parents:
        pivot, found, rest = source.partition("/./")
        pattern = (rest if found else source).strip("/")
        made.src = (pivot or "/") if found else "/"
        made.include_patterns.append(pattern)
        if not set("*?[") & set(source):
            made.required_paths.append(f"{made.src.rstrip('/')}/{pattern}")
    made.include_patterns.extend(action.includes)
    made.exclude_patterns.extend(action.excludes)
    if action.mode.isdigit():
        made.mode = int(action.mode, 8)
    else:
        made.mode_str = action.mode
    made.follow_symlink, made.dir_copy_contents = action.follow, action.contents
    made.attempt_unpack_docker_compatibility = action.unpack
    made.create_dest_path = action.create
    made.allow_wildcard = action.wildcard
    made.allow_empty_wildcard = action.wildcard and not action.required
    _owner(made.owner, action.owner, -1)


def _owner(made: pb.ChownOpt, owner: str, number: int) -> None:
    """Sets nothing when there is none: then the field is not sent."""
    user, colon, group = owner.partition(":")
    if user or colon:
        _one(made.user, user or "0", number)
    if group:
        _one(made.group, group, number)


def _one(made: pb.UserOpt, who: str, number: int) -> None:
    if who.isdigit():
        made.by_id = int(who)
    else:
        made.by_name.name, made.by_name.input = who, number
