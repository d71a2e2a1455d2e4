"""Mounts that are more than a bind of a directory: images, and volumes of the `local` driver with options.

`--mount type=image` shows an image's tree, read-only. A volume made with `type`, `device` and `o` is a file
system that is mounted where it is used: in the container's own mount namespace, never on the host. So a
tmpfs volume is each container's own, where dockerd has one for all containers that run at the same time.
"""

from __future__ import annotations

from typing import Any

from daemon.containers.context import Context
from daemon.containers.model import Container, MountPoint
from daemon.runtime import overlay
from storage.errors import InvalidArgument


def special(ctx: Context, container: Container) -> dict[str, dict[str, Any]]:
    """Destination → OCI mount. Raises NotFound when a volume or an image is gone."""
    found: dict[str, dict[str, Any]] = {}
    for point in container.mounts:
        if point.type == "image":
            found[point.destination] = _image(ctx, point)
        elif point.type == "volume" and (options := ctx.volumes.get(point.name).options):
            found[point.destination] = _file_system(point, options)
        elif point.subpath and container.runtime != "pyd":
            raise InvalidArgument(
                f"runtime {container.runtime} cannot mount a subpath of volume {point.name} safely"
            )
    return found


def settle_images(ctx: Context, container: Container) -> None:
    """At create: an image is meant as it is now, whatever its name means later. Raises NotFound."""
    for point in container.mounts:
        if point.type == "image":
            point.source, point.writable = ctx.images.resolve(point.source).id, False


def _image(ctx: Context, point: MountPoint) -> dict[str, Any]:
    chain_ids = ctx.images.resolve(point.source).chain_ids
    layers = [str(ctx.snapshots.layer_dir(chain_id)) for chain_id in reversed(chain_ids)]
    if len(layers) == 1:
        return _mount(point, "bind", layers[0], ["rbind", "rprivate", "ro"])
    options = [f"{key}={value}" for key, value in overlay.lower_parameters(layers)]
    return _mount(point, "overlay", "overlay", [*options, "ro"])


def _file_system(point: MountPoint, options: dict[str, str]) -> dict[str, Any]:
    if point.subpath:
        raise InvalidArgument(
            f"volume {point.name}: a subpath of a volume with mount options is not supported"
        )
    words = [word for word in options.get("o", "").split(",") if word]
    access = [] if point.writable else ["ro"]
    if "bind" in words or "rbind" in words:
        return _mount(point, "bind", options.get("device", ""), [*words, "rprivate", *access])
    if not options.get("type"):
        return _mount(point, "bind", point.source, ["rbind", "rprivate", *access])
    return _mount(point, options["type"], options.get("device", ""), [*words, *access])


def _mount(point: MountPoint, kind: str, source: str, options: list[str]) -> dict[str, Any]:
    return {"destination": point.destination, "type": kind, "source": source, "options": options}
