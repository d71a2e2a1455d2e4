"""The Go-template evaluator behind --format. Expected texts are those of Go's text/template."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.errors import ClientError
from client.render.listing import Fields, show
from client.template_functions import NIL, Struct, printf
from client.templates import Template

DATA: dict[str, Any] = {
    "A": "x", "N": [1, 2, 3], "M": {"b": "v", "a": None}, "T": True, "E": [], "S": "a,b", "Big": 12345678901,
    "F": 1.5, "Nil": NIL, "Call": lambda name: f"<{name}>", "Deep": {"One": {"Two": "three"}}, "Html": "<a&b>",
}  # fmt: skip

GOOD = [
    ("plain", "plain"),
    ("{{.A}}", "x"),
    ("{{ .Deep.One.Two }}", "three"),
    ("{{.M}} {{.N}} {{.T}} {{.F}} {{.Nil}}", "map[a:<nil> b:v] [1 2 3] true 1.5 <nil>"),
    ("{{json .M}} {{json .Html}}", '{"b":"v","a":null} "<a&b>"'),
    ('{{.Call "q"}}', "<q>"),
    ("{{upper .A}}{{.A | upper | lower}}{{title .A}}", "XxX"),
    ('{{join (split .S ",") "-"}}', "a-b"),
    ('{{printf "%s|%-4s|%4s|%03d|%q|%%" .A .A .A 7 .A}}', 'x|x   |   x|007|"x"|%'),
    ('{{printf "%v|%t|%x|%.2f" .N .T 255 .F}}', "[1 2 3]|true|ff|1.50"),
    ("{{println .A 1}}", "x 1\n"),
    ("{{print .A 1 2 .A}}", "x1 2x"),
    ("{{len .N}}{{len .A}}{{len .M}}", "312"),
    ('{{index .N 1}}{{index .M "b"}}{{index .M "zz"}}{{slice .A 0 1}}', "2vx"),
    ("{{if .T}}y{{else}}n{{end}}{{if .E}}y{{else}}n{{end}}{{if .Nil}}y{{end}}", "yn"),
    ("{{if .E}}1{{else if .T}}2{{else}}3{{end}}!", "2!"),
    ("{{if .E}}1{{else if .Nil}}2{{else if .E}}3{{else}}4{{end}}{{.A}}", "4x"),
    ("{{range .N}}<{{.}}>{{end}}{{range .E}}{{else}}none{{end}}", "<1><2><3>none"),
    ("{{range $i, $v := .N}}{{$i}}={{$v}};{{end}}", "0=1;1=2;2=3;"),
    ("{{range $k, $v := .M}}{{$k}},{{end}}", "a,b,"),
    ("{{range .N}}{{if eq . 2}}{{continue}}{{end}}{{if eq . 3}}{{break}}{{end}}{{.}}{{end}}", "1"),
    ("{{with .Deep}}{{with .One}}{{.Two}}{{$.A}}{{end}}{{end}}{{with .E}}{{else}}no{{end}}", "threexno"),
    ("{{$x := .A}}{{$x}}{{$x = `y`}}{{$x}}", "xy"),
    ("{{eq .A `x`}} {{eq 1 2 1}} {{ne 1 2}} {{lt 1 2}}", "true true true true"),
    ("{{le 2 2}} {{gt 1 2}} {{ge 2 3}}", "true false false"),
    ("{{and .T .A}} {{and .E .A}} {{or .E .A}} {{or .A .E}} {{not .E}}", "x [] x x true"),
    ("{{or .A (index .N 99)}}", "x"),
    ("a {{- .A -}} b", "axb"),
    ("a{{/* a comment */}}b", "ab"),
    ('{{"quo\\"te\\n"}}{{`raw\\n`}}', 'quo"te\nraw\\n'),
    ("{{nil | json}}", "null"),
    ("{{.Big}}", "12345678901"),
    ("{{pad .A 1 2}}|{{truncate .S 2}}", " x  |a,"),
    ("{{(.Deep).One.Two | printf `%s!`}}", "three!"),
    ("{{.}}", "map[a:1]"),
]  # fmt: skip

BAD = [
    ("{{.A", "template: :1: unclosed action"),
    ("{{foo}}", 'template: :1: function "foo" not defined'),
    ("{{if .A}}x", "template: :1: unexpected EOF"),
    ("{{end}}", "template: :1: unexpected {{end}}"),
    ("{{else}}", "template: :1: unexpected {{else}}"),
    ("{{if}}x{{end}}", "template: :1: missing value for if"),
    ("{{}}", "template: :1: missing value for command"),
    ("{{(.A}}", "template: :1: unclosed left paren"),
    ('{{"x}}', "template: :1: unterminated quoted string"),
    ("{{.Foo}}", 'template: :1:2: executing "" at <.Foo>: map has no entry for key "Foo"'),
    ("ab {{.Foo}}", 'template: :1:5: executing "" at <.Foo>: map has no entry for key "Foo"'),
    ("{{.A.B}}", 'template: :1:2: executing "" at <.A.B>: can\'t evaluate field B in type string'),
    ("{{.Nil.B}}", 'template: :1:2: executing "" at <.Nil.B>: nil pointer evaluating interface {}.B'),
    ("{{index .N 9}}", 'template: :1:2: executing "" at <index>: error calling index: index out of range: 9'),
    ("{{len 3}}", 'template: :1:2: executing "" at <len>: error calling len: len of type int'),
    (
        "{{eq .A 3}}",
        'template: :1:2: executing "" at <eq>: error calling eq: incompatible types for comparison',
    ),
    ("{{range .A}}{{end}}", 'template: :1:8: executing "" at <.A>: range can\'t iterate over x'),
    ("{{break}}", "template: :1: {{break}} outside {{range}}"),
    ("{{$nope}}", 'template: :1: undefined variable "$nope"'),
    ('{{define "x"}}{{end}}', "template: :1: {{define}} is not supported"),
    ("{{.A `x`}}", 'template: :1:2: executing "" at <.A>: A has arguments but cannot be invoked as function'),
]


@pytest.mark.parametrize(("text", "expected"), GOOD)
def test_renders(text: str, expected: str) -> None:
    assert Template(text).render({"a": 1} if text == "{{.}}" else DATA) == expected


@pytest.mark.parametrize(("text", "message"), BAD)
def test_error_has_gos_words(text: str, message: str) -> None:
    with pytest.raises(ClientError) as caught:
        Template(text).render(DATA)
    assert str(caught.value) == message


@given(st.text(alphabet='{}.|()$"`abif end rangelse:=-', max_size=40))
def test_any_text_is_rendered_or_refused(text: str) -> None:
    """No other exception escapes, whatever people type."""
    try:
        Template(text).render(DATA)
    except ClientError:
        pass
    except Exception as error:
        raise AssertionError(f"{text!r}: {error!r}") from error


def test_records_print_their_values_and_maps_their_keys() -> None:
    data = {"Ports": {"80/tcp": [Struct(HostIp="0.0.0.0", HostPort="8080")]}}
    assert Template("{{.Ports}}").render(data) == "map[80/tcp:[{0.0.0.0 8080}]]"


def test_printf_says_what_is_missing_or_left() -> None:
    assert printf("%s %d") == "%!s(MISSING) %!d(MISSING)"
    assert printf("%d", "x") == "%!d(string=x)"
    assert printf("x", 1) == "x%!(EXTRA int=1)"


COLUMNS = {"ID": "CONTAINER ID", "Names": "NAMES", "Label": ""}
ROWS = [
    {"ID": "0123456789ab", "Names": "web", "Label": lambda name: f"{name}!"},
    {"ID": "ba9876543210", "Names": "a-much-longer-name", "Label": lambda name: ""},
]


def _shown(text: str) -> list[str]:
    lines: list[str] = []
    show(ROWS, COLUMNS, ("ID", "Names"), text, kind="*formatter.ContainerContext", echo=lines.append)
    return "\n".join(lines).split("\n")


def test_table_has_dockers_columns() -> None:
    assert _shown("") == ["CONTAINER ID   NAMES", "0123456789ab   web", "ba9876543210   a-much-longer-name"]


def test_table_directive_takes_headers_from_the_template() -> None:
    assert _shown(r'table {{.Names}}\t{{.Label "tier"}}\t{{upper .ID}}') == [
        "NAMES                tier      CONTAINER ID",
        "web                  tier!     0123456789AB",
        "a-much-longer-name             BA9876543210",
    ]


def test_json_is_one_document_a_line() -> None:
    assert _shown("json")[0] == '{"ID":"0123456789ab","Names":"web"}'
    assert _shown("{{json .}}")[0] == '{"ID":"0123456789ab","Names":"web"}'


def test_unknown_field_names_the_kind_of_thing() -> None:
    with pytest.raises(ClientError, match=r"can't evaluate field Foo in type \*formatter\.ContainerContext"):
        Template("{{.Foo}}").render(Fields(ROWS[0], "*formatter.ContainerContext"))
