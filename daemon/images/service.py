"""The image service: what the engine and the API call.

Generators (`pull`, `push`, `load`, `save`, `import_`) are async generators: call them without await and
iterate. What is wrong before their first item raises a PydError (and so has an HTTP status); what goes
wrong later is their last item, `{"errorDetail": {"message": ..}, "error": ..}`. Closing a generator
cancels the work.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from daemon.config import DaemonConfig
from daemon.images.model import AuthConfig, Image, ImageUse, Json
from storage.errors import NotImplementedYet

Events = Callable[[str, str, str, dict[str, str]], None]
"""(type, action, id, attributes), as the engine publishes them."""


class ImageService:
    """Everything about images; one instance a daemon."""

    def __init__(self, content: Any, snapshots: Any, records: Any, events: Events, config: DaemonConfig):
        self.in_use: Callable[[str], Sequence[ImageUse]] = lambda image_id: ()
        """Containers made from an image ID; the engine sets it."""

    async def start(self) -> None:
        """Loads the records and removes what an interrupted operation left."""

    async def stop(self) -> None:
        """Ends the worker processes."""

    def resolve(self, ref: str) -> Image:
        """By name, digest, ID or unique ID prefix; NotFound `No such image: X` as dockerd says it."""
        raise NotImplementedYet("resolve")

    def images(self) -> Sequence[Image]:
        """All images, unordered."""
        raise NotImplementedYet("images")

    def names_of(self, image_id: str) -> tuple[str, ...]:
        """Familiar tagged names of an image ID; empty when it is dangling or gone."""
        raise NotImplementedYet("names_of")

    def pull(
        self, ref: str, tag: str = "", platform: str = "", auth: AuthConfig | None = None
    ) -> AsyncIterator[Json]:
        """POST /images/create?fromImage=REF&tag=TAG."""
        raise NotImplementedYet("pull")

    def push(
        self, ref: str, tag: str = "", auth: AuthConfig | None = None, platform: str = ""
    ) -> AsyncIterator[Json]:
        """POST /images/{ref}/push; no tag pushes every tag of the repository."""
        raise NotImplementedYet("push")

    def load(self, stream: AsyncIterator[bytes], quiet: bool = False, platform: str = "") -> AsyncIterator[Json]:
        """POST /images/load."""
        raise NotImplementedYet("load")

    def save(self, refs: Sequence[str], platform: str = "") -> AsyncIterator[bytes]:
        """GET /images/get?names=; the first item comes only once all names are known to exist."""
        raise NotImplementedYet("save")

    def import_(
        self,
        stream: AsyncIterator[bytes],
        repo: str = "",
        tag: str = "",
        message: str = "",
        changes: Sequence[str] = (),
        platform: str = "",
    ) -> AsyncIterator[Json]:
        """POST /images/create?fromSrc=-."""
        raise NotImplementedYet("import")

    async def tag(self, ref: str, repo: str, tag: str = "") -> None:
        raise NotImplementedYet("tag")

    async def remove(self, ref: str, force: bool = False, prune: bool = True) -> list[dict[str, str]]:
        """[{"Untagged": name} | {"Deleted": id} ...]; prune=False is the API's noprune."""
        raise NotImplementedYet("remove")

    async def list(
        self,
        all: bool = False,
        filters: dict[str, list[str]] | None = None,
        digests: bool = False,
        manifests: bool = False,
        shared_size: bool = False,
    ) -> list[Json]:
        """GET /images/json; `Containers` is -1 unless the engine fills it in."""
        raise NotImplementedYet("list")

    def inspect(self, ref: str) -> Json:
        raise NotImplementedYet("inspect")

    def history(self, ref: str) -> list[Json]:
        raise NotImplementedYet("history")

    async def prune(self, filters: dict[str, list[str]] | None = None) -> Json:
        """{"ImagesDeleted": [..] | None, "SpaceReclaimed": bytes}."""
        raise NotImplementedYet("prune")

    async def search(self, term: str, limit: int = 25, filters: dict[str, list[str]] | None = None) -> list[Json]:
        raise NotImplementedYet("search")

    async def login(self, auth: AuthConfig) -> Json:
        """POST /auth: {"Status": "Login Succeeded", "IdentityToken": ""}."""
        raise NotImplementedYet("login")

    async def distribution(self, ref: str, auth: AuthConfig | None = None) -> Json:
        """GET /distribution/{ref}/json."""
        raise NotImplementedYet("distribution")

    async def commit(
        self,
        key: str,
        parent: Image | None,
        config: Json,
        *,
        container_id: str = "",
        container_config: Json | None = None,
        repo: str = "",
        tag: str = "",
        author: str = "",
        message: str = "",
        changes: Sequence[str] = (),
    ) -> str:
        """Makes an image of the active snapshot `key` over `parent`; returns its ID.

        `config` is the container's Config; `changes` are Dockerfile instructions applied to it.
        """
        raise NotImplementedYet("commit")

    async def collect(self) -> int:
        """Removes layers and blobs that no image and no snapshot needs (a container's removal may have
        freed them); returns the bytes freed."""
        raise NotImplementedYet("collect")

    async def disk_usage(self) -> Json:
        """{"LayersSize": bytes, "Images": list(all) with SharedSize}."""
        raise NotImplementedYet("disk usage")
