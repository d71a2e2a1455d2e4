"""What an image is, as text that can be compared, recorded and read: one line a file, and its configuration.

    "usr/bin/tool": "file 4755 0:0 sha256:9f86d081884c7d65 security.capability=AQAAAgAEAAAAAAAA..."
    "srv/link":     "symlink -> deep/er 2001:2001"
    "srv/hard":     "file 0644 0:0 sha256:... hard=srv/first"

Times are left out: no two builds agree on them.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

Files = dict[str, str]
KINDS = {
    tarfile.DIRTYPE: "dir",
    tarfile.SYMTYPE: "symlink",
    tarfile.FIFOTYPE: "fifo",
    tarfile.CHRTYPE: "char",
    tarfile.BLKTYPE: "block",
}
XATTR = "SCHILY.xattr."


@dataclass
class _Inode:
    """A file's line without its names; several names may share one."""

    text: str


@dataclass(frozen=True)
class Image:
    files: Files
    document: dict[str, Any]
    layers: tuple[str, ...] = ()
    """Its DiffIDs: what is built upon it need not read them again."""
    inodes: Mapping[str, _Inode] = field(default_factory=dict, repr=False)

    def since(self, base: Image) -> Image:
        """What was made upon the base: other files, `gone` ones, later history."""
        gone = {name: "gone" for name in base.files if name not in self.files}
        changed = {name: line for name, line in self.files.items() if base.files.get(name) != line}
        count = len(base.document.get("history") or ())
        document = {**self.document, "history": self.document["history"][count:]}
        return Image(gone | changed, document)


def saved(host: str, tag: str, directory: Path, base: Image | None = None) -> Image:
    """The image as `docker save` gives it: the sum of its layers, and its configuration without times.

    `base` saves the reading of the layers that it has.
    """
    archive = directory / "saved.tar"
    command = ["docker", "-H", host, "save", "-o", str(archive), tag]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    try:
        with tarfile.open(archive) as outer:
            manifest = json.load(_member(outer, "manifest.json"))[0]
            document = json.load(_member(outer, manifest["Config"]))
            layers = tuple(document["rootfs"].get("diff_ids") or ())
            known = base.layers if base and layers[: len(base.layers)] == base.layers else ()
            inodes = dict(base.inodes) if base and known else {}
            for name in manifest["Layers"][len(known) :]:
                with tarfile.open(fileobj=_member(outer, name)) as layer:
                    _apply(layer, inodes)
    finally:
        archive.unlink()
    return Image(_lines(inodes), _timeless(document), layers, inodes)


def _member(outer: tarfile.TarFile, name: str | tarfile.TarInfo) -> Any:
    file = outer.extractfile(name)
    assert file is not None, name
    return file


def _timeless(document: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in document.items() if name not in ("created", "rootfs")}
    kept["history"] = [{k: v for k, v in entry.items() if k != "created"} for entry in document["history"]]
    return kept


def _apply(layer: tarfile.TarFile, inodes: dict[str, _Inode]) -> None:
    """One layer upon those below; what it hides goes first, whatever the order of its entries."""
    entries = [(entry.name.removeprefix("./").strip("/"), entry) for entry in layer]
    for name, _ in entries:
        parent, _, last = name.rpartition("/")
        if last == ".wh..wh..opq":
            _remove(inodes, f"{parent}/" if parent else "")
        elif last.startswith(".wh."):
            hidden = f"{parent}/{last[4:]}".lstrip("/")
            inodes.pop(hidden, None)
            _remove(inodes, f"{hidden}/")
    for name, entry in entries:
        if not name or name.rpartition("/")[2].startswith(".wh."):
            continue
        if entry.islnk():
            inodes[name] = inodes[entry.linkname.removeprefix("./").strip("/")]
            continue
        if not entry.isdir():
            _remove(inodes, f"{name}/")
        inodes[name] = _Inode(_line(layer, entry))


def _remove(inodes: dict[str, _Inode], prefix: str) -> None:
    for name in [name for name in inodes if name.startswith(prefix)]:
        del inodes[name]


def _line(layer: tarfile.TarFile, entry: tarfile.TarInfo) -> str:
    owner = f"{entry.uid}:{entry.gid}"
    if entry.issym():
        words = ["symlink", "->", entry.linkname, owner]
    else:
        words = [KINDS.get(entry.type, "file"), f"{entry.mode & 0o7777:04o}", owner]
    if entry.isreg():
        words.append("sha256:" + hashlib.sha256(_member(layer, entry).read()).hexdigest()[:16])
    for key, value in sorted(entry.pax_headers.items()):
        if key.startswith(XATTR):
            raw = value.encode("utf-8", "surrogateescape")
            words.append(f"{key.removeprefix(XATTR)}={base64.b64encode(raw).decode()}")
    return " ".join(words)


def _lines(inodes: Mapping[str, _Inode]) -> Files:
    names: dict[int, list[str]] = {}
    for name, inode in inodes.items():
        names.setdefault(id(inode), []).append(name)
    files = {}
    for name, inode in inodes.items():
        first = min(names[id(inode)])
        files[name] = inode.text + (f" hard={first}" if len(names[id(inode)]) > 1 else "")
    return files


def masked(image: Image, varying: Iterable[str], ignored: Iterable[str], texts: Mapping[str, str]) -> Image:
    """Without what differs from build to build: contents of `varying`, `ignored` names, `texts` replaced."""
    varying, ignored = tuple(varying), tuple(ignored)
    files = {}
    for name, line in image.files.items():
        if any(fnmatch(name, pattern) for pattern in ignored):
            continue
        if any(fnmatch(name, pattern) for pattern in varying):
            line = re.sub(r"sha256:\w+", "sha256:varies", line)
        files[name] = line
    text = json.dumps(image.document)
    for old, new in texts.items():
        text = text.replace(old, new)
    return Image(files, json.loads(text))


def only(image: Image, places: Iterable[str]) -> Image:
    """Only the files at and below these places; all of them where none is given."""
    places = tuple(places)
    if not places:
        return image
    kept = {
        name: line
        for name, line in image.files.items()
        if any(name == place or name.startswith(f"{place}/") for place in places)
    }
    return Image(kept, image.document)


def differences(ours: Any, theirs: Any, place: str = "") -> list[str]:
    """Where two documents differ, one line each."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        keys = sorted({*ours, *theirs})
        return [
            line
            for key in keys
            for line in differences(ours.get(key), theirs.get(key), f"{place}/{key}" if place else key)
        ]
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        pairs = enumerate(zip(ours, theirs, strict=True))
        return [line for n, (one, other) in pairs for line in differences(one, other, f"{place}/{n}")]
    return [] if ours == theirs else [f"{place}: ours {ours!r}, theirs {theirs!r}"]
