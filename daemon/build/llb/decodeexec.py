"""An Exec operation of the wire: its mounts, the root among them, to a process upon input 0."""

from __future__ import annotations

from collections.abc import Callable

from daemon.build.frontend.places import joined
from daemon.build.graph import About, Exec, ExecMount, Output, Vertex
from daemon.build.llb.platform import text_of
from daemon.build.proto import ops_pb2 as pb
from storage.errors import InvalidArgument

MAX_MOUNTS = 1_000
NETWORKS = {pb.NetMode.UNSET: "default", pb.NetMode.HOST: "host", pb.NetMode.NONE: "none"}
_SHARING = {
    pb.CacheSharingOpt.SHARED: "shared",
    pb.CacheSharingOpt.PRIVATE: "private",
    pb.CacheSharingOpt.LOCKED: "locked",
}


def decode_exec(operation: pb.Op, given: Callable[[int], Output | None], about: About) -> dict[int, Output]:
    process, meta = operation.exec, operation.exec.meta
    if not meta.args:
        raise InvalidArgument("a process without arguments")
    if len(process.mounts) > MAX_MOUNTS:
        raise InvalidArgument(f"more than {MAX_MOUNTS} mounts")
    required = [each.name for each in process.cdi_devices if not each.optional]
    if required:
        raise InvalidArgument(f'failed to load LLB: required device "{required[0]}" is not registered')
    mounts: list[ExecMount] = []
    inputs: list[Output | None] = [None]
    outputs: dict[int, int] = {}
    root: pb.Mount | None = None
    for each in process.mounts:
        if each.mount_type == pb.MountType.BIND and joined("/", each.dest) == "/":
            root = each
            inputs[0] = given(each.input)
            if each.selector not in ("", "/"):
                raise InvalidArgument("a root that is only a directory of its input")
            if each.output >= 0:
                outputs[each.output] = 0
            continue
        written = each.mount_type == pb.MountType.BIND and each.output >= 0  # BuildKit leaves 0 in secrets'
        number = 1 + sum(known > 0 for known in outputs.values()) if written else -1
        if number > 0:
            outputs[each.output] = number
        mounts.append(_mount(each, number, inputs, given, meta.cwd))
    if root is None:
        raise InvalidArgument("a process without a root mount")
    mounts += [
        ExecMount("secret", "", id=each.id or each.name, env=each.name, required=not each.optional)
        for each in process.secretenv
    ]
    made = Exec(
        args=tuple(meta.args),
        env=tuple(meta.env),
        cwd=meta.cwd or "/",
        user=meta.user,
        mounts=tuple(mounts),
        network=NETWORKS.get(process.network, "default"),
        security="insecure" if process.security == pb.SecurityMode.INSECURE else "sandbox",
        platform=text_of(operation.platform),
        hostname=meta.hostname,
        hosts=tuple(f"{each.host}:{each.ip}" for each in meta.extra_hosts),
        ulimits=tuple((each.name, each.soft, each.hard) for each in meta.ulimit),
        cgroup_parent=meta.cgroup_parent,
        readonly=root.readonly,
        valid_codes=tuple(meta.valid_exit_codes) or (0,),
        proxy=_proxy(meta.proxy_env) if meta.HasField("proxy_env") else (),
    )
    vertex = Vertex(made, tuple(inputs), about)
    return {wire: Output(vertex, here) for wire, here in outputs.items()}


def _mount(
    mount: pb.Mount,
    output: int,
    inputs: list[Output | None],
    given: Callable[[int], Output | None],
    cwd: str,
) -> ExecMount:
    place = -1
    if mount.input >= 0:
        inputs.append(given(mount.input))
        place = len(inputs) - 1
    return mounted(mount, place, output, cwd)


def mounted(mount: pb.Mount, place: int, output: int, cwd: str) -> ExecMount:
    """A mount of the wire. `place`: its input's number here, `output`: its own, below 0 for none."""
    target = joined(cwd or "/", mount.dest)
    source = joined("/", mount.selector)
    match mount.mount_type:
        case pb.MountType.BIND:
            return ExecMount("bind", target, place, source, mount.readonly, output)
        case pb.MountType.CACHE:
            sharing = _SHARING.get(mount.cache_opt.sharing, "shared")
            ident = mount.cache_opt.id or target
            return ExecMount("cache", target, place, source, mount.readonly, id=ident, sharing=sharing)
        case pb.MountType.TMPFS:
            return ExecMount("tmpfs", target, size=mount.tmpfs_opt.size)
        case pb.MountType.SECRET:
            secret = mount.secret_opt
            return ExecMount("secret", target, id=secret.id, mode=secret.mode, uid=secret.uid, gid=secret.gid,
                             required=not secret.optional)  # fmt: skip
        case pb.MountType.SSH:
            agent = mount.ssh_opt
            return ExecMount("ssh", target, id=agent.id or "default", mode=agent.mode or None, uid=agent.uid,
                             gid=agent.gid, required=not agent.optional)  # fmt: skip
    raise InvalidArgument(f"invalid mount type {mount.mount_type}")


def _proxy(proxy: pb.ProxyEnv) -> tuple[str, ...]:
    found = []
    for name in ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy"):
        value = getattr(proxy, name)
        if value:
            found += [f"{name.upper()}={value}", f"{name}={value}"]
    return tuple(found)
