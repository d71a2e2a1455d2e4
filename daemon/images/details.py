"""docker image inspect and docker history."""

from __future__ import annotations

from daemon.images import times
from daemon.images.model import Image, Json
from daemon.images.store import ImageStore
from daemon.images.targets import Target
from storage.errors import Internal

_ALWAYS = ("Cmd", "Entrypoint", "Env", "Labels", "OnBuild", "User", "Volumes", "WorkingDir")
_WHEN_SET = ("ArgsEscaped", "ExposedPorts", "Healthcheck", "Shell", "StopSignal")
_EMPTY: Json = {"User": "", "WorkingDir": ""}


def config_of(image: Image) -> Json:
    """Config as API 1.50 and later show it: the OCI members and Docker's extensions."""
    config = image.container_config
    shown: Json = {name: config.get(name, _EMPTY.get(name)) for name in _ALWAYS}
    for name in ("User", "WorkingDir"):
        shown[name] = shown[name] or ""
    return dict(sorted({**shown, **{name: config[name] for name in _WHEN_SET if config.get(name)}}.items()))


def inspect(store: ImageStore, image: Image, target: Target | None = None) -> Json:
    """`target`: what the name that was asked for is bound to."""
    document = image.config
    history = document.get("history") or []
    comment = document.get("comment") or (history[-1].get("comment") if history else "") or ""
    answer: Json = {
        "Id": image.id,
        "RepoTags": list(image.references),
        "RepoDigests": list(image.digests),
        "Parent": image.parent,
        "Comment": comment,
        "Created": image.created,
        "DockerVersion": document.get("docker_version") or "",
        "Author": document.get("author") or "",
        "Architecture": document.get("architecture") or "",
        "Os": document.get("os") or "linux",
        "Size": image.size,
        "GraphDriver": {"Data": _directories(store, image), "Name": "overlay2"},
        "RootFS": {"Type": "layers", "Layers": list(image.diff_ids)},
        "Metadata": {"LastTagTime": image.last_tagged},
        "Config": config_of(image),
    }
    if target is not None:
        answer["Descriptor"] = target.fields()
    if variant := document.get("variant"):
        answer["Variant"] = variant
    if version := document.get("os.version"):
        answer["OsVersion"] = version
    if not image.diff_ids:
        answer["RootFS"] = {"Type": "layers"}
    return answer


def _directories(store: ImageStore, image: Image) -> Json | None:
    if not image.top:
        return None
    chain = store.snapshots.chain(image.top)
    top = store.snapshots.layer_dir(chain[0])
    data = {
        "MergedDir": str(top.parent / "merged"),
        "UpperDir": str(top),
        "WorkDir": str(top.parent / "work"),
    }
    if len(chain) > 1:
        data["LowerDir"] = ":".join(str(store.snapshots.layer_dir(name)) for name in chain[1:])
    return data


def history(store: ImageStore, image: Image) -> list[Json]:
    """Newest first; only images that are here themselves have an ID, the rest is `<missing>`."""
    rows: list[Json] = []
    chains = iter(image.chain_ids)
    for entry in image.config.get("history") or []:
        size = 0
        if not entry.get("empty_layer"):
            chain = next(chains, None)
            if chain is None:
                raise Internal("too many non-empty layers in History section")
            size = store.layer_size(chain)
        rows.insert(
            0,
            {
                "Comment": entry.get("comment") or "",
                "Created": times.nanoseconds(entry.get("created") or "") // 10**9,
                "CreatedBy": entry.get("created_by") or "",
                "Id": "<missing>",
                "Size": size,
                "Tags": None,
            },
        )
    known: Image | None = image
    for row in rows:
        if known is None:
            break
        row["Id"] = known.id
        row["Tags"] = list(known.references) or None
        known = store.get(known.parent) if known.parent else None
    return rows
