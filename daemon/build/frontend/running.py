"""RUN: a process, and what is mounted for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from daemon.build.dockerfile import instructions as ins
from daemon.build.dockerfile.lexer import heredoc_head
from daemon.build.dockerfile.mounts import Mount
from daemon.build.dockerfile.source import DockerfileError
from daemon.build.frontend import places
from daemon.build.frontend.site import Site
from daemon.build.frontend.variables import NOT_IN_PROCESSES, PROXIES
from daemon.build.graph import Exec, ExecMount, Mkfile, Output


async def run(site: Site, command: ins.Run) -> None:
    if command.devices:
        raise DockerfileError("device feature is only supported in Dockerfile frontend 1.14.0-labs or later")
    state = site.state
    text, mounts = " ".join(command.words), list[ExecMount]()
    inputs: list[Output | None] = [state.output]
    if command.heredocs:
        text = _script(site, command, mounts, inputs)
    args = [*state.shell, text] if command.shell else list(command.words)
    if not args or not args[0]:
        raise DockerfileError("RUN requires at least one argument")
    for mount in command.mounts:
        mounts.append(await _mount(site, mount, command, inputs))
    operation = _process(site, command, args, mounts)
    state.output = site.made(operation, inputs, command, site.step_name(command))
    declared = [f"{name}={state.env.get(name, value)}" for name, value in state.arguments.items()]
    counted = [f"|{len(declared)}", *declared] if declared else []
    site.history("RUN " + " ".join([*counted, *args]), layer=True, files=True)


def _process(site: Site, command: ins.Run, args: list[str], mounts: list[ExecMount]) -> Exec:
    state, options = site.state, site.around.options
    hidden = NOT_IN_PROCESSES - state.image_env.keys()
    return Exec(
        args=tuple(args),
        env=tuple(f"{name}={value}" for name, value in state.env.items() if name not in hidden),
        cwd=state.directory,
        user=state.config.get("User") or "",
        mounts=tuple(mounts),
        network=command.network if command.network != "default" else site.around.network,
        security=command.security,
        platform=state.platform,
        hostname=options.hostname,
        hosts=options.hosts,
        ulimits=options.ulimits,
        cgroup_parent=options.cgroup_parent,
        shm_size=options.shm_size,
        proxy=_proxies(site.around.arguments),
    )


def _proxies(arguments: Mapping[str, str | None]) -> tuple[str, ...]:
    """In whichever case one was given, processes get both."""
    found = {}
    for name in PROXIES:
        value = arguments.get(name)
        found[name] = value if value is not None else arguments.get(name.swapcase())
    return tuple(f"{name}={value}" for name, value in found.items() if value is not None)


def _script(site: Site, command: ins.Run, mounts: list[ExecMount], inputs: list[Output | None]) -> str:
    """A heredoc alone is the script; with anything around it the shell reads it itself."""
    if len(command.words) != 1 or not command.shell:
        raise DockerfileError(f"parsing produced an invalid run command: {list(command.words)}")
    head = heredoc_head(command.words[0])
    if head is None:
        return command.words[0] + "".join(f"\n{each.content}{each.name}" for each in command.heredocs)
    document = command.heredocs[0]
    if not document.text.startswith("#!"):
        return document.text
    inputs.append(site.inline([Mkfile(f"/{head.name}", document.text, 0o755)], command))
    mounts.append(ExecMount("bind", "/dev/pipes", input=len(inputs) - 1, readonly=True))
    return f"/dev/pipes/{head.name}"


async def _mount(site: Site, mount: Mount, command: ins.Run, inputs: list[Output | None]) -> ExecMount:
    """What a mount shows of a tree becomes an input."""
    target = site.word(mount.target)
    if mount.kind in ("bind", "cache", "tmpfs"):
        target = places.joined(site.state.directory, target)
        if target == "/":
            raise DockerfileError('invalid mount target "/"')
    source, ident = site.word(mount.source), site.word(mount.id)
    made = ExecMount(mount.kind, target, readonly=mount.readonly, uid=mount.uid or 0, gid=mount.gid or 0,
                     mode=mount.mode, size=mount.size, required=mount.required, env=mount.env,
                     sharing=mount.sharing)  # fmt: skip
    if mount.kind in ("secret", "ssh"):
        return places.secret(made, ident, source, target, site.state.directory)
    if mount.kind == "tmpfs":
        return made
    if mount.kind == "cache":
        space = site.around.options.cache_namespace
        made = replace(made, id=f"{space}/{ident or target}" if space else ident or target)
        if not mount.origin:
            return made
    read = places.joined("/", source or "/")
    origin = site.word(mount.origin) if mount.origin else None
    inputs.append(await site.tree(origin, command, [read]))
    return replace(made, input=len(inputs) - 1, source=read)
