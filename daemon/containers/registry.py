"""All containers of the daemon: looked up by ID, unique prefix or name; saved in one transaction.

Lookups are in memory. `save` and `drop` return when the record is committed.
"""

from __future__ import annotations

from collections.abc import Iterator

from daemon.containers.model import Container
from storage import failpoints
from storage.errors import Conflict, InvalidArgument, NotFound
from storage.records import Delete, Put, Records

KIND = "containers"


class Registry:
    def __init__(self, records: Records) -> None:
        self._records = records
        self._by_id: dict[str, Container] = {}
        self._names: dict[str, str] = {}

    def load(self) -> None:
        for record in self._records.load(KIND).values():
            self._insert(Container.from_record(record))

    def _insert(self, container: Container) -> None:
        self._by_id[container.id] = container
        self._names[container.name] = container.id

    def __iter__(self) -> Iterator[Container]:
        return iter(list(self._by_id.values()))

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, container_id: str) -> bool:
        return container_id in self._by_id

    def by_id(self, container_id: str) -> Container | None:
        return self._by_id.get(container_id)

    def find(self, ref: str) -> Container:
        """Raises NotFound (`No such container: X`) or InvalidArgument for an ambiguous prefix."""
        if not ref:
            raise InvalidArgument("invalid container name or ID: value is empty")
        container = self._by_id.get(ref)
        if container:
            return container
        named = self._names.get(ref.removeprefix("/"))
        if named:
            return self._by_id[named]
        if "/" in ref.strip("/"):
            return self._linked(ref)
        found = [c for key, c in self._by_id.items() if key.startswith(ref)]
        if len(found) > 1:
            raise InvalidArgument(f"multiple IDs found with provided prefix: {ref}")
        if not found:
            raise NotFound(f"No such container: {ref}")
        return found[0]

    def _linked(self, ref: str) -> Container:
        """The container that `PARENT/ALIAS` names by a link of PARENT's."""
        parent, _, alias = ref.removeprefix("/").rpartition("/")
        holder = self._by_id.get(self._names.get(parent, parent))
        for link in (holder.host.get("Links") or []) if holder else ():
            child, _, name = link.partition(":")
            if name.rpartition("/")[2] == alias and child in self._by_id:
                return self._by_id[child]
        raise NotFound(f"No such container: {ref}")

    def reserve(self, name: str, container_id: str) -> None:
        """Take a name for a container to be. Raises Conflict with Docker's text."""
        holder = self._names.get(name)
        if holder is not None:
            raise Conflict(
                f'Conflict. The container name "/{name}" is already in use by container "{holder}". '
                "You have to remove (or rename) that container to be able to reuse that name."
            )
        self._names[name] = container_id

    def release(self, name: str, container_id: str) -> None:
        if self._names.get(name) == container_id:
            del self._names[name]

    async def add(self, container: Container) -> None:
        failpoints.hit("containers.add")
        await self.save(container)
        failpoints.hit("containers.added")
        self._insert(container)

    async def save(self, container: Container) -> None:
        await self._records.write([Put(KIND, container.id, container.to_record())])

    async def drop(self, container: Container) -> None:
        failpoints.hit("containers.drop")
        await self._records.write([Delete(KIND, container.id)])
        failpoints.hit("containers.dropped")
        self._by_id.pop(container.id, None)
        self.release(container.name, container.id)
