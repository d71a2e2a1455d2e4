"""The syntax of `--format` (templates.py): text to a tree of strings, blocks and the marks `Break` and `Continue`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from client.errors import ClientError
from client.template_functions import FUNCTIONS

_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n]+)|(?P<string>"(?:[^"\\\n]|\\.)*")|(?P<raw>`[^`]*`)|(?P<char>'(?:[^'\\]|\\.)')
    |(?P<number>[+-]?(?:0[xX][0-9a-fA-F]+|\d+\.?\d*(?:[eE][+-]?\d+)?))|(?P<field>\.[A-Za-z_]\w*)
    |(?P<variable>\$\w*)|(?P<word>[A-Za-z_]\w*)|(?P<assign>:=|=)|(?P<dot>\.)|(?P<mark>[()|,])""",
    re.VERBOSE,
)
_ACTION = re.compile(r"\{\{(-(?=\s))?(.*?)((?<=\s)-)?\}\}", re.DOTALL)


class TemplateSyntaxError(ClientError):
    """The text is no template."""


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    column: int


@dataclass(frozen=True)
class Operand:
    """`kind` is value, field, variable, function or group; `chain` are the fields asked of it."""

    kind: str
    value: Any
    chain: tuple[str, ...]
    column: int
    source: str


@dataclass(frozen=True)
class Pipeline:
    commands: tuple[tuple[Operand, ...], ...]
    variables: tuple[str, ...] = ()
    declares: bool = False


@dataclass
class Block:
    """An action with bodies: `if`, `range`, `with`; or a plain action, whose keyword is empty."""

    keyword: str
    pipeline: Pipeline
    body: list[Any] = field(default_factory=list)
    otherwise: list[Any] = field(default_factory=list)


class Break(Exception):
    pass


class Continue(Exception):
    pass


def syntax_error(message: str) -> TemplateSyntaxError:
    return TemplateSyntaxError(f"template: :1: {message}")


def _tokens(text: str, start: int) -> list[_Token]:
    found, position = [], 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            if text[position] in "\"'`":
                raise syntax_error("unterminated quoted string")
            raise syntax_error(f"unexpected {text[position]!r} in command".replace("'", '"'))
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

    def pipeline(self, *, nested: bool = False) -> Pipeline:
        variables, declares = self._declaration()
        commands = []
        while True:
            command = self._command(nested)
            if not command:
                raise syntax_error("missing value for command")
            commands.append(command)
            self.skip_space()
            token = self.peek()
            if token is None or token.text == ")":
                break
            self.at += 1
        return Pipeline(tuple(commands), variables, declares)

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

    def _command(self, nested: bool) -> tuple[Operand, ...]:
        operands = []
        while True:
            self.skip_space()
            token = self.peek()
            if token is None or token.text == "|":
                break
            if token.text == ")":
                if not nested:
                    raise syntax_error("unexpected right paren in operand")
                break
            operands.append(self._operand())
        return tuple(operands)

    def _operand(self) -> Operand:
        token = self.tokens[self.at]
        self.at += 1
        kind, value = self._base(token)
        chain = []
        while (more := self.peek()) and more.kind == "field":
            chain.append(more.text[1:])
            self.at += 1
        source = token.text + "".join(f".{name}" for name in chain)
        return Operand(kind, value, tuple(chain), token.column, source)

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
                raise syntax_error("unclosed left paren")
            self.at += 1
            return "group", inner
        raise syntax_error(f'unexpected "{text}" in operand')

    @staticmethod
    def _word(text: str) -> tuple[str, Any]:
        if text in ("true", "false"):
            return "value", text == "true"
        if text == "nil":
            return "value", None
        if text in FUNCTIONS or text in ("and", "or"):
            return "function", text
        raise syntax_error(f'function "{text}" not defined')


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


def parse(text: str) -> list[Any]:
    """Text to a tree: strings, blocks and the marks `Break` and `Continue`."""
    root: list[Any] = []
    stack: list[Block] = []
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
        raise syntax_error("unclosed action")
    if stack:
        raise syntax_error("unexpected EOF")
    if rest := (rest.lstrip() if trim_next else rest):
        root.append(rest)
    return root


def _action(
    source: str, start: int, stack: list[Block], targets: list[list[Any]], chained: list[int]
) -> None:
    if source.strip().startswith("/*"):
        return
    tokens = _tokens(source, start)
    if not tokens:
        raise syntax_error("missing value for command")
    keyword = tokens[0].text if tokens[0].kind == "word" else ""
    if keyword in ("if", "range", "with"):
        _open(keyword, tokens[1:], stack, targets)
        chained.append(0)
    elif keyword == "else":
        if not stack:
            raise syntax_error("unexpected {{else}}")
        targets[-1] = stack[-1].otherwise
        if len(tokens) > 2:
            _open(tokens[2].text, tokens[3:], stack, targets)
            chained[-1] += 1
    elif keyword == "end":
        if not stack:
            raise syntax_error("unexpected {{end}}")
        for _ in range(chained.pop() + 1):
            stack.pop()
            targets.pop()
    elif keyword in ("break", "continue"):
        if not any(block.keyword == "range" for block in stack):
            raise syntax_error(f"{{{{{keyword}}}}} outside {{{{range}}}}")
        targets[-1].append(Break if keyword == "break" else Continue)
    elif keyword in ("define", "template", "block"):
        raise syntax_error(f"{{{{{keyword}}}}} is not supported")
    else:
        targets[-1].append(Block("", _whole(tokens)))


def _open(keyword: str, tokens: list[_Token], stack: list[Block], targets: list[list[Any]]) -> None:
    if keyword not in ("if", "range", "with"):
        raise syntax_error(f'unexpected "{keyword}" in else')
    if not any(token.kind != "space" for token in tokens):
        raise syntax_error(f"missing value for {keyword}")
    block = Block(keyword, _whole(tokens))
    targets[-1].append(block)
    stack.append(block)
    targets.append(block.body)


def _whole(tokens: list[_Token]) -> Pipeline:
    expression = _Expression(tokens)
    pipeline = expression.pipeline()
    if expression.peek() is not None:
        raise syntax_error("unexpected right paren in operand")
    return pipeline
