"""The configuration of an image as it is stored: with its layers, their history and the times.

Source: BuildKit exporter/containerimage/writer.go (normalizeLayersAndHistory, patchImageConfig).
"""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from daemon.build import imageconfig
from daemon.images import times
from daemon.images.manifests import encode
from daemon.images.platforms import Platform
from storage.errors import InvalidArgument

Json = dict[str, Any]
COMMENT = "buildkit.exporter.image.v0"
"""In history entries of layers that the front end said nothing of."""
CACHE = "moby.buildkit.cache.v0"
_CONFIG_ORDER = (
    "User", "ExposedPorts", "Env", "Entrypoint", "Cmd", "Volumes", "WorkingDir", "Labels", "StopSignal",
    "ArgsEscaped", "Healthcheck", "OnBuild", "Shell",
)  # fmt: skip
"""Of Docker's Go type: members come in its order, others behind."""
_HISTORY_ORDER = ("created", "created_by", "author", "comment", "empty_layer")


@dataclass(frozen=True)
class LayerMade:
    """What is known of a layer beside its content. `created` in nanoseconds, 0: not known."""

    diff_id: str
    created: int = 0
    text: str = ""


def default(platform: Platform) -> Json:
    """Of a result that no front end made a configuration for."""
    return imageconfig.empty(platform.architecture, platform.variant)


def finished(document: Json, layers: Sequence[LayerMade], epoch: int | None) -> Json:
    """With layers and times; `epoch` (nanoseconds) is the latest time that may stand there."""
    if not document.get("os") or not document.get("architecture"):
        raise InvalidArgument("invalid image config for export: missing os or architecture")
    history = _history(document.get("history") or (), layers)
    inherited = sum("created" in entry for entry in _leading(document.get("history") or ()))
    if epoch is not None:
        for entry in history[inherited:]:
            entry["created"] = _clamped(entry["created"], epoch)
    created = document.get("created")
    if created and epoch is not None:
        created = _clamped(created, epoch)
    if not created:
        created = history[-1]["created"] if history else times.rfc3339(_now(epoch))
    diff_ids = [layer.diff_id for layer in layers]
    return ordered(imageconfig.finish({**document, "history": history}, diff_ids, created))


def _leading(history: Sequence[Json]) -> list[Json]:
    """What a base image brought: the entries that had times before the build."""
    number = next((n for n, entry in enumerate(history) if not entry.get("created")), len(history))
    return list(history[:number])


def _history(given: Sequence[Json], layers: Sequence[LayerMade]) -> list[Json]:
    history = [{name: value for name, value in entry.items() if value} for entry in given]
    surplus = sum(not entry.get("empty_layer") for entry in history) - len(layers)
    layer = 0
    for entry in history:
        if entry.get("empty_layer"):
            continue
        if layer >= len(layers):
            entry["empty_layer"] = True  # BuildKit does so from the bottom when layers are missing
            continue
        if "created" not in entry and layers[layer].created:
            entry["created"] = times.rfc3339(layers[layer].created)
        layer += 1
    if surplus < 0:
        history += [_unsaid(each) for each in layers[layer:]]
    _fill_times(history)
    return history


def _unsaid(layer: LayerMade) -> Json:
    created = times.rfc3339(layer.created or time.time_ns())
    return {"created": created, "created_by": layer.text or "created by buildkit", "comment": COMMENT}


def _fill_times(history: list[Json]) -> None:
    """What only changed the configuration has the time of the first new layer, or of the one before it."""
    created: str | None = None
    missing = False
    for entry in history:
        if "created" in entry:
            created = entry["created"]
            if missing:
                break
        else:
            missing = True
    created = created or times.rfc3339(time.time_ns())
    missing = False
    for entry in history:
        if "created" in entry:
            created = entry["created"] if missing else created
        else:
            missing = True
            entry["created"] = created


def _clamped(created: str, epoch: int) -> str:
    return times.rfc3339(epoch) if times.nanoseconds(created) > epoch else created


def _now(epoch: int | None) -> int:
    return time.time_ns() if epoch is None else min(time.time_ns(), epoch)


def ordered(document: Json) -> Json:
    """Members in the order of Go's encoder: a map's sorted, a type's as declared."""
    config: Mapping[str, Any] = document.get("config") or {}
    inner = {
        name: dict(sorted(value.items())) if name in ("Labels", "Volumes", "ExposedPorts") else value
        for name, value in _in_order(config, _CONFIG_ORDER).items()
    }
    history = [_in_order(entry, _HISTORY_ORDER) for entry in document.get("history") or ()]
    return dict(sorted({**document, "config": inner, "history": history}.items()))


def _in_order(members: Mapping[str, Any], order: Sequence[str]) -> Json:
    known = [name for name in order if name in members]
    return {name: members[name] for name in (*known, *sorted(members.keys() - set(known)))}


def encoded(document: Json, inline_cache: bytes | None) -> bytes:
    if inline_cache is not None:
        document = dict(sorted({**document, CACHE: base64.b64encode(inline_cache).decode()}.items()))
    return encode(document)
