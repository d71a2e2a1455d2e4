"""A small evaluator of Go's text/template, the language of `--format`.

    Template("{{.Names}}: {{upper .State}}").render({"Names": "db", "State": "running"})

Known: text, fields (`.A.B`), variables (`$x`, `:=`, `=`), pipelines, parentheses, calls, `if`/`else if`/`else`,
`range`, `with`, `break`, `continue`, comments, trim markers, strings, raw strings, numbers, booleans, `nil`, and
the functions of `template_functions`. Not known: `define`, `template`, `block`. Errors have Go's words and
positions (`template: :1:2: executing "" at <.Foo>: ...`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from client.errors import ClientError
from client.template_functions import FUNCTIONS, FunctionError, Nil, to_text, type_name
from client.template_syntax import Block, Break, Continue, Operand, Pipeline, parse, syntax_error


class TemplateExecutionError(ClientError):
    """The template does not fit the data."""


class Template:
    """A parsed template; `render` executes it against one value."""

    def __init__(self, text: str) -> None:
        self._tree = parse(text)

    def render(self, data: Any, *, headers: bool = False) -> str:
        """The text. With `headers`, names that are not there give `<no value>` instead of an error."""
        return _Execution(data, lenient=headers).run(self._tree)


class _Execution:
    def __init__(self, data: Any, *, lenient: bool) -> None:
        self.scopes: list[dict[str, Any]] = [{"$": data}]
        self.lenient = lenient
        self.dot = data
        self.out: list[str] = []

    def run(self, tree: list[Any]) -> str:
        self.walk(tree)
        return "".join(self.out)

    def walk(self, nodes: list[Any]) -> None:
        for node in nodes:
            if isinstance(node, str):
                self.out.append(node)
            elif isinstance(node, Block):
                self.block(node)
            else:
                raise node

    def block(self, node: Block) -> None:
        if not node.keyword:
            value = self.pipeline(node.pipeline)
            if not node.pipeline.variables:
                self.out.append(to_text(value))
            return
        self.scopes.append({})
        dot = self.dot
        try:
            if node.keyword == "range":
                self.range(node)
                return
            value = self.pipeline(node.pipeline)
            if value and node.keyword == "with":
                self.dot = value
            self.walk(node.body if value else node.otherwise)
        finally:
            self.dot = dot
            self.scopes.pop()

    def range(self, node: Block) -> None:
        bare = Pipeline(node.pipeline.commands)
        value = self.pipeline(bare)
        items: Iterable[tuple[Any, Any]]
        if isinstance(value, Mapping):
            items = [(key, value[key]) for key in sorted(value)]
        elif isinstance(value, list | tuple):
            items = list(enumerate(value))
        elif isinstance(value, int) and not isinstance(value, bool):
            items = [(number, number) for number in range(value)]
        elif not value:
            items = []
        else:
            first = node.pipeline.commands[0][0]
            raise self.error(first, f"range can't iterate over {to_text(value)}")
        if not items:
            self.walk(node.otherwise)
            return
        names = node.pipeline.variables
        for key, item in items:
            self.dot = item
            self.scopes[-1] = dict(zip(names, (key, item) if len(names) > 1 else (item,), strict=False))
            try:
                self.walk(node.body)
            except Continue:
                continue
            except Break:
                break

    def pipeline(self, pipeline: Pipeline) -> Any:
        value: Any = None
        for number, command in enumerate(pipeline.commands):
            value = self.command(command, [value] if number else [])
        for name in pipeline.variables:
            scope = self.scopes[-1]
            if not pipeline.declares:
                scope = next((s for s in reversed(self.scopes) if name in s), scope)
            scope[name] = value
        return value

    def command(self, command: tuple[Operand, ...], piped: list[Any]) -> Any:
        first, rest = command[0], command[1:]
        if first.kind == "function":
            return self.chain(first, self.call(first, rest, piped))
        arguments = [self.operand(operand) for operand in rest] + piped
        if first.kind in ("value",) and arguments:
            raise self.error(first, f"can't give argument to non-function {first.source}")
        return self.operand(first, arguments)

    def call(self, function: Operand, operands: tuple[Operand, ...], piped: list[Any]) -> Any:
        name = function.value
        if name in ("and", "or"):
            return self.decide(function, operands, piped)
        arguments = [self.operand(operand) for operand in operands] + piped
        try:
            return FUNCTIONS[name](*arguments)
        except FunctionError as error:
            raise self.error(function, f"error calling {name}: {error}", named=True) from None
        except TypeError:
            raise self.error(
                function, f"wrong number of args for {name}: got {len(arguments)}", named=True
            ) from None

    def decide(self, function: Operand, operands: tuple[Operand, ...], piped: list[Any]) -> Any:
        value: Any = None
        if not operands and not piped:
            raise self.error(
                function, f"wrong number of args for {function.value}: want at least 1 got 0", named=True
            )
        for operand in operands:
            value = self.operand(operand)
            if bool(value) != (function.value == "and"):
                return value
        return piped[0] if piped else value

    def operand(self, operand: Operand, arguments: list[Any] | None = None) -> Any:
        given = arguments or []
        if operand.kind == "function":
            return self.chain(operand, self.call(operand, (), given))
        if operand.kind == "value":
            return operand.value
        if operand.kind == "field":
            return self.chain(operand, self.dot, (operand.value, *operand.chain), given)
        if operand.kind == "group":
            return self.chain(operand, self.pipeline(operand.value), operand.chain, given)
        if operand.kind == "variable":
            return self.chain(operand, self.variable(operand), operand.chain, given)
        return self.chain(operand, self.dot, operand.chain, given)

    def variable(self, operand: Operand) -> Any:
        for scope in reversed(self.scopes):
            if operand.value in scope:
                return scope[operand.value]
        raise syntax_error(f'undefined variable "{operand.value}"')

    def chain(self, operand: Operand, value: Any, names: tuple[str, ...] = (),
              arguments: list[Any] | None = None) -> Any:  # fmt: skip
        for position, name in enumerate(names):
            given = (arguments or []) if position == len(names) - 1 else []
            value = self.field(operand, value, name, given)
        return value

    def field(self, operand: Operand, value: Any, name: str, arguments: list[Any]) -> Any:
        if not isinstance(value, Mapping):
            if value is None or isinstance(value, Nil):
                raise self.error(operand, f"nil pointer evaluating interface {{}}.{name}")
            raise self.error(operand, f"can't evaluate field {name} in type {type_name(value)}")
        if name not in value:
            if self.lenient:
                return "<no value>"
            kind = getattr(value, "kind", None)
            problem = (f"can't evaluate field {name} in type {kind}" if kind
                       else f'map has no entry for key "{name}"')  # fmt: skip
            raise self.error(operand, problem)
        found = value[name]
        if callable(found) and (arguments or not isinstance(found, str)):
            return found(*arguments)
        if arguments:
            raise self.error(operand, f"{name} has arguments but cannot be invoked as function")
        return found

    def error(self, operand: Operand, problem: str, *, named: bool = False) -> TemplateExecutionError:
        source = operand.value if named else operand.source
        return TemplateExecutionError(f'template: :1:{operand.column}: executing "" at <{source}>: {problem}')
