"""Cache keys of steps: digests of what is done, of the tree it is done upon and of the contents that are read."""

from __future__ import annotations

from collections.abc import Sequence

from daemon.build.graph import Exec, File, describe, digest_of


def file_key(file: File, chain: str, read: Sequence[str]) -> str:
    """`chain`: chain ID of the tree; `read`: content digests, in the order of the actions."""
    return digest_of(["file", describe(file), chain, list(read)])


def exec_key(process: Exec, chain: str, read: Sequence[str]) -> str:
    """`read`: of the mounts that have an input, in their order. Proxies and the epoch are nobody's content."""
    described = describe(process)
    described.pop("proxy")
    described["env"] = [each for each in process.env if not each.startswith("SOURCE_DATE_EPOCH=")]
    return digest_of(["exec", described, chain, list(read)])
