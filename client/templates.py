"""A small evaluator of Go's text/template, the language of `--format`.

    Template("{{.Names}}: {{upper .State}}").render({"Names": "db", "State": "running"})

Known: text, fields (`.A.B`), variables (`$x`, `:=`, `=`), pipelines, parentheses, calls, `if`/`else if`/`else`,
`range`, `with`, `break`, `continue`, comments, trim markers, strings, raw strings, numbers, booleans, `nil`, and
the functions of `template_functions`. Not known: `define`, `template`, `block`. Errors have Go's words and
positions (`template: :1:2: executing "" at <.Foo>: ...`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from client.errors import ClientError
from client.template_functions import FUNCTIONS, FunctionError, Nil, to_text, type_name

_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n]+)|(?P<string>"(?:[^"\\\n]|\\.)*")|(?P<raw>`[^`]*`)|(?P<char>'(?:[^'\\]|\\.)')
    |(?P<number>[+-]?(?:0[xX][0-9a-fA-F]+|\d+\.?\d*(?:[eE][+-]?\d+)?))|(?P<field>\.[A-Za-z_]\w*)
    |(?P<variable>\$\w*)|(?P<word>[A-Za-z_]\w*)|(?P<assign>:=|=)|(?P<dot>\.)|(?P<mark>[()|,])""",
    re.VERBOSE,
)
_ACTION = re.compile(r"\{\{(-(?=\s))?(.*?)((?<=\s)-)?\}\}", re.DOTALL)


class TemplateSyntaxError(ClientError):
    """The text is no template."""


class TemplateExecutionError(ClientError):
    """The template does not fit the data."""


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    column: int


@dataclass(frozen=True)
class _Operand:
    """`kind` is value, field, variable, function or group; `chain` are the fields asked of it."""

    kind: str
    value: Any
    chain: tuple[str, ...]
    column: int
    source: str


@dataclass(frozen=True)
class _Pipeline:
    commands: tuple[tuple[_Operand, ...], ...]
    variables: tuple[str, ...] = ()
    declares: bool = False


@dataclass
class _Block:
    """An action with bodies: `if`, `range`, `with`; or a plain action, whose keyword is empty."""

    keyword: str
    pipeline: _Pipeline
    body: list[Any] = field(default_factory=list)
    otherwise: list[Any] = field(default_factory=list)


class _Break(Exception):
    pass


class _Continue(Exception):
    pass


def _syntax(message: str) -> TemplateSyntaxError:
    return TemplateSyntaxError(f"template: :1: {message}")


def _tokens(text: str, start: int) -> list[_Token]:
    found, position = [], 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            if text[position] in "\"'`":
                raise _syntax("unterminated quoted string")
            raise _syntax(f"unexpected {text[position]!r} in command".replace("'", '"'))
        if match.lastgroup != "space":
            found.append(_Token(str(match.lastgroup), match.group(), start + position))
        elif found:
            found.append(_Token("space", " ", start + position))
        position = match.end()
    while found and found[-1].kind == "space":
        found.pop()
    return found


class _Expression:
    """Recursive descent over the tokens of one action."""

    def __init__(self, tokens: list[_Token]) -> None:
        self.tokens, self.at = tokens, 0

    def peek(self) -> _Token | None:
        return self.tokens[self.at] if self.at < len(self.tokens) else None

    def skip_space(self) -> None:
        while (token := self.peek()) and token.kind == "space":
            self.at += 1

    def pipeline(self, *, nested: bool = False) -> _Pipeline:
        variables, declares = self._declaration()
        commands = []
        while True:
            command = self._command(nested)
            if not command:
                raise _syntax("missing value for command")
            commands.append(command)
            self.skip_space()
            token = self.peek()
            if token is None or token.text == ")":
                break
            self.at += 1
        return _Pipeline(tuple(commands), variables, declares)

    def _declaration(self) -> tuple[tuple[str, ...], bool]:
        """`$x :=`, `$k, $v :=`, `$x =`."""
        start, names = self.at, []
        self.skip_space()
        while (token := self.peek()) and token.kind == "variable":
            names.append(token.text)
            self.at += 1
            self.skip_space()
            token = self.peek()
            if token and token.kind == "assign":
                self.at += 1
                return tuple(names), token.text == ":="
            if token is None or token.text != ",":
                break
            self.at += 1
            self.skip_space()
        self.at = start
        return (), False

    def _command(self, nested: bool) -> tuple[_Operand, ...]:
        operands = []
        while True:
            self.skip_space()
            token = self.peek()
            if token is None or token.text == "|":
                break
            if token.text == ")":
                if not nested:
                    raise _syntax("unexpected right paren in operand")
                break
            operands.append(self._operand())
        return tuple(operands)

    def _operand(self) -> _Operand:
        token = self.tokens[self.at]
        self.at += 1
        kind, value = self._base(token)
        chain = []
        while (more := self.peek()) and more.kind == "field":
            chain.append(more.text[1:])
            self.at += 1
        source = token.text + "".join(f".{name}" for name in chain)
        return _Operand(kind, value, tuple(chain), token.column, source)

    def _base(self, token: _Token) -> tuple[str, Any]:
        text = token.text
        if token.kind == "field":
            return "field", text[1:]
        if token.kind == "dot":
            return "dot", None
        if token.kind == "variable":
            return "variable", text
        if token.kind in ("string", "char"):
            return "value", _unquote(text) if token.kind == "string" else ord(_unquote(text))
        if token.kind == "raw":
            return "value", text[1:-1]
        if token.kind == "number":
            return "value", float(text) if re.search(r"[.eE]", text) and "x" not in text.lower() else int(
                text, 0
            )
        if token.kind == "word":
            return self._word(text)
        if text == "(":
            inner = self.pipeline(nested=True)
            self.skip_space()
            closing = self.peek()
            if closing is None or closing.text != ")":
                raise _syntax("unclosed left paren")
            self.at += 1
            return "group", inner
        raise _syntax(f'unexpected "{text}" in operand')

    @staticmethod
    def _word(text: str) -> tuple[str, Any]:
        if text in ("true", "false"):
            return "value", text == "true"
        if text == "nil":
            return "value", None
        if text in FUNCTIONS or text in ("and", "or"):
            return "function", text
        raise _syntax(f'function "{text}" not defined')


def _unquote(text: str) -> str:
    inner = text[1:-1]
    if "\\" not in inner:
        return inner
    return re.sub(r"\\(u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|.)", _escape, inner)


def _escape(match: re.Match[str]) -> str:
    code = match[1]
    if len(code) > 1:
        return chr(int(code[1:], 16))
    return {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}.get(code, code)


def _parse(text: str) -> list[Any]:
    """Text to a tree: strings, blocks and the words `break` and `continue`."""
    root: list[Any] = []
    stack: list[_Block] = []
    targets: list[list[Any]] = [root]
    chained: list[int] = [0]
    position = 0
    trim_next = False
    for match in _ACTION.finditer(text):
        literal = text[position : match.start()]
        literal = literal.lstrip() if trim_next else literal
        literal = literal.rstrip() if match[1] else literal
        if literal:
            targets[-1].append(literal)
        trim_next, position = bool(match[3]), match.end()
        _action(match[2], match.start(2), stack, targets, chained)
    rest = text[position:]
    if "{{" in rest:
        raise _syntax("unclosed action")
    if stack:
        raise _syntax("unexpected EOF")
    if rest := (rest.lstrip() if trim_next else rest):
        root.append(rest)
    return root


def _action(
    source: str, start: int, stack: list[_Block], targets: list[list[Any]], chained: list[int]
) -> None:
    if source.strip().startswith("/*"):
        return
    tokens = _tokens(source, start)
    if not tokens:
        raise _syntax("missing value for command")
    keyword = tokens[0].text if tokens[0].kind == "word" else ""
    if keyword in ("if", "range", "with"):
        _open(keyword, tokens[1:], stack, targets)
        chained.append(0)
    elif keyword == "else":
        if not stack:
            raise _syntax("unexpected {{else}}")
        targets[-1] = stack[-1].otherwise
        if len(tokens) > 2:
            _open(tokens[2].text, tokens[3:], stack, targets)
            chained[-1] += 1
    elif keyword == "end":
        if not stack:
            raise _syntax("unexpected {{end}}")
        for _ in range(chained.pop() + 1):
            stack.pop()
            targets.pop()
    elif keyword in ("break", "continue"):
        if not any(block.keyword == "range" for block in stack):
            raise _syntax(f"{{{{{keyword}}}}} outside {{{{range}}}}")
        targets[-1].append(_Break if keyword == "break" else _Continue)
    elif keyword in ("define", "template", "block"):
        raise _syntax(f"{{{{{keyword}}}}} is not supported")
    else:
        targets[-1].append(_Block("", _whole(tokens)))


def _open(keyword: str, tokens: list[_Token], stack: list[_Block], targets: list[list[Any]]) -> None:
    if keyword not in ("if", "range", "with"):
        raise _syntax(f'unexpected "{keyword}" in else')
    if not any(token.kind != "space" for token in tokens):
        raise _syntax(f"missing value for {keyword}")
    block = _Block(keyword, _whole(tokens))
    targets[-1].append(block)
    stack.append(block)
    targets.append(block.body)


def _whole(tokens: list[_Token]) -> _Pipeline:
    expression = _Expression(tokens)
    pipeline = expression.pipeline()
    if expression.peek() is not None:
        raise _syntax("unexpected right paren in operand")
    return pipeline


class Template:
    """A parsed template; `render` executes it against one value."""

    def __init__(self, text: str) -> None:
        self._tree = _parse(text)

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
            elif isinstance(node, _Block):
                self.block(node)
            else:
                raise node

    def block(self, node: _Block) -> None:
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

    def range(self, node: _Block) -> None:
        bare = _Pipeline(node.pipeline.commands)
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
            except _Continue:
                continue
            except _Break:
                break

    def pipeline(self, pipeline: _Pipeline) -> Any:
        value: Any = None
        for number, command in enumerate(pipeline.commands):
            value = self.command(command, [value] if number else [])
        for name in pipeline.variables:
            scope = self.scopes[-1]
            if not pipeline.declares:
                scope = next((s for s in reversed(self.scopes) if name in s), scope)
            scope[name] = value
        return value

    def command(self, command: tuple[_Operand, ...], piped: list[Any]) -> Any:
        first, rest = command[0], command[1:]
        if first.kind == "function":
            return self.chain(first, self.call(first, rest, piped))
        arguments = [self.operand(operand) for operand in rest] + piped
        if first.kind in ("value",) and arguments:
            raise self.error(first, f"can't give argument to non-function {first.source}")
        return self.operand(first, arguments)

    def call(self, function: _Operand, operands: tuple[_Operand, ...], piped: list[Any]) -> Any:
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

    def decide(self, function: _Operand, operands: tuple[_Operand, ...], piped: list[Any]) -> Any:
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

    def operand(self, operand: _Operand, arguments: list[Any] | None = None) -> Any:
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

    def variable(self, operand: _Operand) -> Any:
        for scope in reversed(self.scopes):
            if operand.value in scope:
                return scope[operand.value]
        raise _syntax(f'undefined variable "{operand.value}"')

    def chain(self, operand: _Operand, value: Any, names: tuple[str, ...] = (),
              arguments: list[Any] | None = None) -> Any:  # fmt: skip
        for position, name in enumerate(names):
            given = (arguments or []) if position == len(names) - 1 else []
            value = self.field(operand, value, name, given)
        return value

    def field(self, operand: _Operand, value: Any, name: str, arguments: list[Any]) -> Any:
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

    def error(self, operand: _Operand, problem: str, *, named: bool = False) -> TemplateExecutionError:
        source = operand.value if named else operand.source
        return TemplateExecutionError(f'template: :1:{operand.column}: executing "" at <{source}>: {problem}')
