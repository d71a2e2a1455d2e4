"""COPY, ADD and WORKDIR: what makes files without a process."""

from __future__ import annotations

from dataclasses import replace

from daemon.build.dockerfile import instructions as ins
from daemon.build.dockerfile.lexer import Heredoc
from daemon.build.dockerfile.source import DockerfileError
from daemon.build.files import modes
from daemon.build.frontend import places
from daemon.build.frontend.site import Site
from daemon.build.graph import About, Action, CopyFiles, File, Merge, Mkdir, Mkfile, Output, Vertex
from daemon.build.graph import Source as SourceOp
from daemon.build.sources import gitrefs
from daemon.images import reference
from storage.errors import InvalidArgument


def workdir(site: Site, command: ins.Workdir) -> None:
    state = site.state
    path = places.joined(state.directory, site.word(command.path))
    state.config["WorkingDir"] = path
    layer = path != "/"
    if layer:
        time = -1 if site.around.epoch is None else site.around.epoch
        action = Mkdir(path, 0o755, True, state.config.get("User") or "", time)
        state.output = site.made(File((action,)), (state.output,), command, site.step_name(command))
    site.history(f"WORKDIR {path}", layer=layer)


async def copy(site: Site, command: ins.Copy | ins.Add) -> None:
    state = site.state
    target = places.target(state.directory, site.word(command.target))
    sources = [site.word(text) for text in command.sources]
    _check(command, sources, site.word(command.chmod))
    name = site.step_name(command)
    # --link without --chmod is a layer on its own, put over the stage afterwards (as BuildKit has it)
    link = command.link and not command.chmod
    inputs: list[Output | None] = [None if link else state.output]
    operation = File(tuple(await _copies(site, command, sources, target, inputs, name)))
    if not link:
        state.output = site.made(operation, inputs, command, name)
    else:
        shown = site.around.naming.same(f"LINK {site.shown(command)}", trigger=site.triggered)
        made = site.made(operation, inputs, command, name, group=name)
        if state.output is not None:
            made = site.made(Merge(), (state.output, made), command, shown, group=name)
        state.output = made
    written = _as_written(site, command, sources)
    site.history(f"{command.name.upper()} {written}", layer=True, files=True)


def _check(command: ins.Copy | ins.Add, sources: list[str], mode: str) -> None:
    if mode and not modes.PATTERN.fullmatch(mode):
        if not mode[0].isdigit():
            raise DockerfileError("invalid syntax")
        raise DockerfileError(
            f"invalid chmod parameter: '{mode}'. it should be octal string and between 0 and 07777"
        )
    if isinstance(command, ins.Add) and command.checksum:
        if len(sources) != 1:
            raise DockerfileError("checksum can't be specified for multiple sources")
        if not _is_remote(sources[0]):
            raise DockerfileError("checksum requires HTTP(S) or Git sources")
    if isinstance(command, ins.Copy):
        for source in filter(_is_remote, sources):
            kind = "git ref" if gitrefs.parse(source) else "URL"
            raise DockerfileError(f"source can't be a {kind} for COPY")


async def _copies(
    site: Site,
    command: ins.Copy | ins.Add,
    sources: list[str],
    target: str,
    inputs: list[Output | None],
    name: str,
) -> list[Action]:
    """The copies of all sources, in their order; adds to `inputs`."""
    common = CopyFiles(
        -1,
        (),
        target,
        excludes=command.excludes,
        owner=site.word(command.chown),
        mode=site.word(command.chmod),
    )
    actions: list[Action] = []
    tree = -1
    for source in sources:
        if isinstance(command, ins.Add) and _is_remote(source):
            inputs.append(Output(_remote(site, command, source, name)))
            actions.append(_downloaded(common, len(inputs) - 1, command, gitrefs.parse(source) is not None))
            continue
        if tree < 0:
            inputs.append(await _tree(site, command, sources))
            tree = len(inputs) - 1
        unpack = isinstance(command, ins.Add) and command.unpack is not False
        parents = isinstance(command, ins.Copy) and command.parents
        actions.append(
            replace(common, input=tree, sources=(places.source(source),), unpack=unpack, parents=parents)
        )
    if command.heredocs:
        inputs.append(_inline(site, command))
        document = replace(common, input=len(inputs) - 1, wildcard=False)
        actions += [replace(document, sources=(f"/{head.name}",)) for head in command.heredocs]
    return actions


def _downloaded(common: CopyFiles, number: int, command: ins.Add, git: bool) -> CopyFiles:
    """All of a repository, or the one file of a URL, which is unpacked when asked only."""
    if git:
        return replace(common, input=number, sources=("/",), wildcard=False)
    return replace(common, input=number, sources=("/*",), unpack=bool(command.unpack))


async def _tree(site: Site, command: ins.Copy | ins.Add, sources: list[str]) -> Output | None:
    origin = (command.origin or None) if isinstance(command, ins.Copy) else None
    paths = [places.joined("/", source) for source in sources if not _is_remote(source)]
    return await site.tree(origin, command, paths)


def _as_written(site: Site, command: ins.Copy | ins.Add, sources: list[str]) -> str:
    """Variables expanded (instructions' String after Expand)."""
    flags = ["--parents"] if isinstance(command, ins.Copy) and command.parents else []
    if command.chown:
        flags.append(f"--chown={site.word(command.chown)}")
    if command.chmod:
        flags.append(f"--chmod={site.word(command.chmod)}")
    heads = [f"<<{head.name}" for head in command.heredocs]
    return " ".join([*flags, *sources, *heads, site.word(command.target)])


# -- trees that the instruction brings itself


def _remote(site: Site, command: ins.Add, source: str, name: str) -> Vertex:
    """ADD's URLs: a git repository, or one file."""
    checksum = site.word(command.checksum)
    about = About(name, command.span, site.around.stage, text=site.around.source)
    if (git := gitrefs.parse(source)) is not None:
        if checksum and git.checksum and checksum != git.checksum:
            raise DockerfileError(f'checksum mismatch "{checksum}" != "{git.checksum}"')
        keep = command.keep_git_dir if git.keep is None else git.keep
        git = replace(git, checksum=checksum or git.checksum, keep=keep)
        return Vertex(SourceOp(git.identifier, git.attributes), (), about)
    if checksum:
        try:
            reference.validate_digest(checksum)
        except InvalidArgument as error:
            raise DockerfileError(str(error)) from None
    return Vertex(SourceOp(source, (("http.checksum", checksum),) if checksum else ()), (), about)


def _inline(site: Site, command: ins.Copy | ins.Add) -> Output:
    """Heredocs as files in a tree of their own."""
    files = []
    for head in command.heredocs:
        if "/" in head.name or head.name in (".", ".."):
            raise DockerfileError(f"invalid heredoc name {head.name!r}: it becomes a file's name")
        files.append(Mkfile(f"/{head.name}", _document(site, head)))
    return site.inline(files, command)


def _document(site: Site, head: Heredoc) -> str:
    if not head.expand or "$" not in head.text:
        return head.text
    # quotes mean nothing in a document
    return replace(site.around.lexer, raw_quotes=True).word(head.text, site.state.env)


def _is_remote(source: str) -> bool:
    return source.startswith(("http://", "https://")) or gitrefs.parse(source) is not None
