"""Paths as instructions mean them, where secrets go, and how Go writes a character."""

from __future__ import annotations

from dataclasses import replace

from daemon.build.graph import ExecMount


def secret(made: ExecMount, ident: str, source: str, target: str, workdir: str) -> ExecMount:
    name = ident or source or target.rstrip("/").rpartition("/")[2]
    if made.kind == "ssh":
        name = ident or "default"
        place = joined(workdir, target) if target else "/run/buildkit/ssh_agent.0"
        return replace(made, id=name, source="", target=place)
    if not target and not made.env:
        target = f"/run/secrets/{name.rpartition('/')[2]}"
    elif target:
        target = joined(workdir, target)
    return replace(made, id=name, source="", target=target)


def joined(base: str, path: str) -> str:
    """`path` seen from `base`, cleaned; it can't leave the root."""
    parts: list[str] = []
    for part in (path if path.startswith("/") else f"{base}/{path}").split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return "/" + "/".join(parts)


def target(workdir: str, path: str) -> str:
    """A destination keeps its final slash, which means a directory."""
    if not path:
        path = "."
    found = joined(workdir, path)
    directory = path.endswith(("/", "/.")) or path in (".", "..")
    return found + "/" if directory and found != "/" else found


def source(path: str) -> str:
    """A source seen from its tree's root: `..` stays inside. `./a` of --parents keeps its pivot."""
    if "/./" in path:
        before, _, after = path.partition("/./")
        return f"{joined('/', before)}/./{joined('/', after)[1:]}"
    cleaned = joined("/", path)
    return cleaned + "/" if path.endswith("/") and cleaned != "/" else cleaned


def rune(number: int) -> str:
    """Go's %q of an int: a character."""
    if number in (7, 8, 9, 10, 11, 12, 13, 39, 92):
        return {7: "'\\a'", 8: "'\\b'", 9: "'\\t'", 10: "'\\n'", 11: "'\\v'", 12: "'\\f'", 13: "'\\r'", 39: "'\\''",
                92: "'\\\\'"}[number]  # fmt: skip
    if number < 32:
        return f"'\\x{number:02x}'"
    return f"'{chr(number)}'" if number < 0x110000 else "'\ufffd'"
