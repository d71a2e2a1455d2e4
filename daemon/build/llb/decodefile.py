"""A File operation of the wire: actions that may branch, to chains of actions, one vertex each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from daemon.build.graph import (
    About,
    Action,
    CopyFiles,
    File,
    Mkdir,
    Mkfile,
    Output,
    Remove,
    Symlink,
    Vertex,
)
from daemon.build.proto import ops_pb2 as pb
from storage.errors import InvalidArgument

MAX_ACTIONS = 10_000


@dataclass
class _Chain:
    """Actions one after the other; `inputs[0]` is what they change."""

    inputs: list[Output | None]
    actions: list[Action] = field(default_factory=list)


def decode_file(operation: pb.FileOp, inputs: Sequence[Output], about: About) -> dict[int, Output]:
    if not 0 < len(operation.actions) <= MAX_ACTIONS:
        raise InvalidArgument(f"a file operation of {len(operation.actions)} actions")
    return _Actions(operation, inputs, about).run()


class _Actions:
    """The wire counts inputs first, then the results of the actions before."""

    def __init__(self, operation: pb.FileOp, inputs: Sequence[Output], about: About) -> None:
        self._actions, self._inputs, self._about = list(operation.actions), inputs, about
        self._chains: dict[int, _Chain] = {}
        self._made: dict[int, Output] = {}

    def run(self) -> dict[int, Output]:
        found: dict[int, Output] = {}
        following = self._following()
        for number, action in enumerate(self._actions):
            chain = self._chain(number, action)
            if action.WhichOneof("action") == "copy":
                chain.inputs.append(self._tree(action.secondary_input, number))
            chain.actions.append(_action(action, len(chain.inputs) - 1))
            if number not in following:
                vertex = Vertex(File(tuple(chain.actions)), tuple(chain.inputs), self._about)
                self._made[number] = Output(vertex)
                if action.output >= 0:
                    found[action.output] = self._made[number]
        if not found:
            raise InvalidArgument("a file operation without an output")
        return found

    def _following(self) -> set[int]:
        """Actions whose result is nothing but what the next one changes: they share its vertex."""
        uses: dict[int, int] = {}
        bases: set[int] = set()
        count = len(self._inputs)
        for number, action in enumerate(self._actions):
            named = [action.input]
            if action.WhichOneof("action") == "copy":
                named.append(action.secondary_input)
            for each in named:
                if each >= count:
                    uses[each - count] = uses.get(each - count, 0) + 1
            if action.input - count == number - 1:
                bases.add(number - 1)
        return {n for n in bases if uses.get(n) == 1 and n >= 0 and self._actions[n].output < 0}

    def _chain(self, number: int, action: pb.FileAction) -> _Chain:
        before = action.input - len(self._inputs)
        if before >= 0 and before in self._chains and before not in self._made:
            chain = self._chains[before]
        else:
            chain = _Chain([self._tree(action.input, number)])
        self._chains[number] = chain
        return chain

    def _tree(self, wanted: int, number: int) -> Output | None:
        if wanted < 0:
            return None
        if wanted < len(self._inputs):
            return self._inputs[wanted]
        made = self._made.get(wanted - len(self._inputs))
        if made is None or wanted - len(self._inputs) >= number:
            raise InvalidArgument(f"invalid input {wanted} of file action {number}")
        return made


def _action(action: pb.FileAction, copied: int) -> Action:
    match action.WhichOneof("action"):
        case "mkdir":
            made = action.mkdir
            path, owner = _path(made.path), _owner(made.owner)
            return Mkdir(path, made.mode & 0o7777, made.make_parents, owner, made.timestamp)
        case "mkfile":
            data = action.mkfile.data.decode("utf-8", "surrogateescape")
            file = action.mkfile
            return Mkfile(_path(file.path), data, file.mode & 0o7777, _owner(file.owner), file.timestamp)
        case "symlink":
            link = action.symlink
            return Symlink(_path(link.newpath), link.oldpath, _owner(link.owner), link.timestamp)
        case "rm":
            return Remove(_path(action.rm.path), action.rm.allow_not_found, action.rm.allow_wildcard)
        case "copy":
            return _copy(action.copy, copied)
    raise InvalidArgument("invalid empty file action")


def _copy(copy: pb.FileActionCopy, copied: int) -> CopyFiles:
    target = _path(copy.dest)
    if copy.dest.endswith("/") and target != "/":
        target += "/"
    mode = copy.mode_str or ("" if copy.mode == -1 else f"{copy.mode & 0o7777:o}")
    source = _path(copy.src)
    if copy.required_paths and copy.src in ("", "/") and not _wild(copy.include_patterns):
        # what BuildKit makes of COPY --parents; here it is that again, for then parents keep their looks
        return CopyFiles(copied, tuple(copy.required_paths), target, _owner(copy.owner), mode,
                         parents=True, excludes=tuple(copy.exclude_patterns), time=copy.timestamp)  # fmt: skip
    return CopyFiles(
        copied,
        (source,),
        target,
        owner=_owner(copy.owner),
        mode=mode,
        unpack=copy.attempt_unpack_docker_compatibility,
        excludes=tuple(copy.exclude_patterns),
        wildcard=copy.allow_wildcard,
        contents=copy.dir_copy_contents,
        required=copy.allow_wildcard and not copy.allow_empty_wildcard,
        follow=copy.follow_symlink,
        create=copy.create_dest_path,
        includes=tuple(copy.include_patterns),
        time=copy.timestamp,
    )


def _wild(patterns: Sequence[str]) -> bool:
    return any(set("*?[") & set(each) for each in patterns)


def _path(text: str) -> str:
    if "\0" in text:
        raise InvalidArgument("a path with a NUL character")
    from daemon.build.frontend.places import joined

    return joined("/", text)


def _owner(owner: pb.ChownOpt) -> str:
    if not owner.HasField("user"):
        return "" if not owner.HasField("group") else f"0:{_one(owner.group)}"
    return _one(owner.user) + (f":{_one(owner.group)}" if owner.HasField("group") else "")


def _one(who: pb.UserOpt) -> str:
    return who.by_name.name if who.WhichOneof("user") == "by_name" else str(who.by_id)
