"""The lines of a pull, push or load, as dockerd writes them (moby pkg/streamformatter, pkg/progress)."""

from __future__ import annotations

from daemon.images.model import Json

_BAR = 50
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def message(text: str, id: str = "") -> Json:
    """A line of its own, with nothing to count."""
    return {"status": text, "id": id} if id else {"status": text}


def state(text: str, id: str) -> Json:
    """A layer has reached a stage."""
    return {"status": text, "progressDetail": {}, "id": id}


def counting(text: str, id: str, current: int, total: int) -> Json:
    """A layer is so far along; an unknown total is 0."""
    detail = {"current": current, "total": total} if total else {"current": current}
    return {"status": text, "progressDetail": detail, "progress": bar(current, total), "id": id}


def failure(text: str) -> Json:
    """The last line of a stream that went wrong after it had begun."""
    return {"errorDetail": {"message": text}, "error": text}


def bar(current: int, total: int) -> str:
    if total <= 0:
        return f"{human_size(current):>8}"
    done = min(current * _BAR // total, _BAR)
    drawn = "[" + "=" * done + ">" + " " * (_BAR - done) + "]"
    return f"{drawn} {human_size(current):>8}/{human_size(total)}"


def human_size(size: float) -> str:
    """Decimal units, four significant digits (docker/go-units HumanSize)."""
    unit = 0
    while size >= 1000 and unit < len(_UNITS) - 1:
        size, unit = size / 1000, unit + 1
    return f"{size:.4g}{_UNITS[unit]}"


def short(digest: str) -> str:
    """Twelve hex digits of a digest, as users see it."""
    return digest.partition(":")[2][:12] or digest[:12]
