"""`rename`."""

from __future__ import annotations

from daemon.containers import names
from daemon.containers.context import Context
from storage.errors import Conflict, InvalidArgument


async def rename(ctx: Context, ref: str, name: str) -> None:
    """Raises NotFound, InvalidArgument (form, same name), Conflict (name in use)."""
    container = ctx.registry.find(ref)
    if not name:
        raise InvalidArgument("Neither old nor new names may be empty")
    if name.removeprefix("/") == container.name:
        raise InvalidArgument("Renaming a container with the same name as its current name")
    try:
        fresh = names.checked(name)
    except InvalidArgument as error:
        raise InvalidArgument(
            f"Error when allocating new name: {error}".replace(f"({name})", f"(/{name})")
        ) from None
    async with container.lock:
        try:
            ctx.registry.reserve(fresh, container.id)
        except Conflict as error:
            raise Conflict(f"Error when allocating new name: {error}") from None
        old, container.name = container.name, fresh
        try:
            await ctx.registry.save(container)
        except BaseException:
            container.name = old
            ctx.registry.release(fresh, container.id)
            raise
        ctx.registry.release(old, container.id)
        await ctx.networks.rename(container.id, fresh)
        ctx.publish(container, "rename", oldName=f"/{old}")
