"""A list of things in the form that --format asks for.

`Column`s name what a template can ask for: `Column("ID", "CONTAINER ID")` is `{{.ID}}` with that header. A row is a
mapping from those names to values (a callable is a method that takes arguments, such as `{{.Label "x"}}`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from client.errors import ClientError
from client.render.table import align, table

if TYPE_CHECKING:
    from client.templates import Template

Row = Mapping[str, Any]
Columns = Mapping[str, str]


def show(rows: Sequence[Row], columns: Columns, default: Sequence[str], chosen: str, *, kind: str,
         echo: Callable[[str], None] = print) -> None:  # fmt: skip
    """Print rows: no format and `table` print the default columns; `json` one document a line; else a template."""
    if chosen in ("", "table"):
        header = [columns[name] for name in default]
        echo(table(header, [[str(row[name]) for name in default] for row in rows]))
    elif chosen == "json":
        for row in rows:
            echo(row_json({name: row[name] for name in sorted(columns) if not callable(row[name])}))
    elif chosen.startswith("table"):
        _templated_table(rows, columns, chosen[5:].strip(), kind, echo)
    else:
        template = _parsed(chosen)
        for row in rows:
            echo(_rendered(template, Fields(row, kind)))


def row_json(values: Mapping[str, Any]) -> str:
    """A row's JSON; Go's encoder escapes what HTML minds."""
    from client.template_functions import escape_html

    return escape_html(to_json(values))


def _templated_table(rows: Sequence[Row], columns: Columns, text: str, kind: str,
                     echo: Callable[[str], None]) -> None:  # fmt: skip
    template = _parsed(text)
    header = template.render(
        Fields({name: _Header(title) for name, title in columns.items()}, kind), headers=True
    )
    lines = [header, *(_rendered(template, Fields(row, kind)) for row in rows)]
    echo("\n".join(align("\n".join(lines).split("\n"))))


class _Header(str):
    """A column's title; called with arguments (`{{.Label "x"}}`) the title is the argument."""

    def __call__(self, *arguments: Any) -> str:
        return str(arguments[0]) if arguments else str(self)


class Fields(dict[str, Any]):
    """A row as templates see it: an unknown name is an error that names the kind of thing."""

    def __init__(self, values: Mapping[str, Any], kind: str) -> None:
        super().__init__(values)
        self.kind = kind


def unescape(text: str) -> str:
    """Shells hand `\\t` over as two characters."""
    return text.replace("\\t", "\t").replace("\\n", "\n")


def to_json(value: Any, *, indent: int | None = None) -> str:
    """JSON as Go writes it for people: no HTML escapes, no ASCII escapes."""
    separators = (",", ":") if indent is None else (",", ": ")
    return json.dumps(value, indent=indent, separators=separators, ensure_ascii=False, default=str)


def check_template(text: str) -> None:
    """Raise before anything is asked of the daemon when a template cannot be parsed."""
    if text and text not in ("json", "table"):
        _parsed(text.removeprefix("table"))


def _parsed(text: str) -> Template:
    from client.templates import Template

    try:
        return Template(unescape(text))
    except ClientError as error:
        raise ClientError(f"failed to parse template: {error}") from None


def _rendered(template: Template, row: Fields) -> str:
    try:
        return template.render(row)
    except ClientError as error:
        raise ClientError(f"failed to execute template: {error}") from None
