"""Query strings, filters, bodies and credentials, read as dockerd reads them."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api import body
from api.models.bodies import NetworkCreateRequest
from api.operation import decode_auth
from api.query import Query, parse_filters
from api.routes.system import timestamp
from api.versions import parse, refusal
from daemon.containers.wire import CreateRequest
from storage.errors import InvalidArgument

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=60)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (b"", False),
        (b"a=", False),
        (b"a=0", False),
        (b"a=No", False),
        (b"a=FALSE", False),
        (b"a=none", False),
        (b"a=+none+", False),
        (b"a=1", True),
        (b"a=off", True),
        (b"a=yes&a=0", True),
    ],
)
def test_flags_are_false_only_for_dockers_words(query: bytes, expected: bool) -> None:
    assert Query(query).flag("a") is expected


def test_an_absent_flag_takes_the_default_an_empty_one_does_not() -> None:
    assert Query(b"").flag("stream", default=True) is True
    assert Query(b"stream").flag("stream", default=True) is False


def test_values_are_decoded_and_repeated_names_kept() -> None:
    query = Query(b"names=a%2Fb%3A1&names=c+d")
    assert query.several("names") == ["a/b:1", "c d"]
    assert query.string("names") == "a/b:1"


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (b"a=%zz", 'invalid URL escape "%zz"'),
        (b"a=%f", 'invalid URL escape "%f"'),
        (b"a=1;b=2", "invalid semicolon separator in query"),
    ],
)
def test_malformed_queries_are_refused(query: bytes, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        Query(query)


def test_integers_are_gos() -> None:
    assert Query(b"t=-1").integer("t") == -1
    assert Query(b"t=").integer("t") is None
    for wrong in (b"t=x", b"t=1.5", b"t=0x1", b"t=1_000", b"t=%C2%B2"):
        with pytest.raises(InvalidArgument, match=r"strconv\.Atoi: parsing .* invalid syntax"):
            Query(wrong).integer("t")
    with pytest.raises(InvalidArgument, match="value out of range"):
        Query(b"t=9223372036854775808").integer("t")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("", "syntax"),
        ("x", "syntax"),
        ("+1", "syntax"),
        ("-1", "out of range"),
        ("4294967296", "out of range"),
    ],
)
def test_a_bad_tty_size_names_dimension_and_value(value: str, reason: str) -> None:
    with pytest.raises(InvalidArgument, match=f'invalid resize height ".*": .*{reason}'):
        Query(b"h=" + value.replace("+", "%2B").encode()).dimension("h", "height")


def test_both_forms_of_filters() -> None:
    assert parse_filters('{"label":["a=b","c"],"status":["exited"]}') == {
        "label": ["a=b", "c"],
        "status": ["exited"],
    }
    assert parse_filters('{"label":{"a":true,"b":false}}') == {"label": ["a"]}
    assert parse_filters("") == parse_filters("null") == parse_filters("{}") == {}


@pytest.mark.parametrize(
    "text", ["x", "[]", '"a"', '{"a":1}', '{"a":[1]}', '{"a":{"b":1}}', '{"a":"b"}', "{"]
)
def test_bad_filters_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid filter"):
        parse_filters(text)


def decode(text: str, shape: Any = CreateRequest, name: str = "CreateRequest") -> Any:
    return body.decode(text.encode(), shape, name)


def test_a_body_is_read_as_go_does() -> None:
    """Any case of a key, null as nothing, unknown keys ignored, the last duplicate wins."""
    text = """{"image": "a", "IMAGE": "b", "Cmd": "true", "Nonsense": {"x": 1}, "Env": null,
        "HostConfig": {"memory": 6291456, "Binds": ["/a:/b", null],
        "PortBindings": {"80/tcp": [{"hostport": "8080"}], "81/tcp": null}}, "Volumes": {"/v": {}}}"""
    assert decode(text) == {
        "Image": "b",
        "Cmd": ["true"],
        "HostConfig": {
            "Memory": 6291456,
            "Binds": ["/a:/b", ""],
            "PortBindings": {"80/tcp": [{"HostPort": "8080"}], "81/tcp": None},
        },
        "Volumes": {"/v": {}},
    }
    assert decode("null") == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"Image":5}', "cannot unmarshal number into Go struct field CreateRequest.Image of type string"),
        ('{"Tty":"x"}', "cannot unmarshal string into Go struct field CreateRequest.Tty of type bool"),
        (
            '{"HostConfig":{"Memory":"x"}}',
            "cannot unmarshal string into Go struct field CreateRequest.HostConfig.Memory of type int64",
        ),
        (
            '{"HostConfig":{"Memory":99999999999999999999}}',
            "number 99999999999999999999 into Go struct field CreateRequest.HostConfig.Memory of type int64",
        ),
        ('{"StopTimeout":1.5}', "number 1.5 into Go struct field CreateRequest.StopTimeout of type int"),
        (
            '{"HostConfig":{"Privileged":1}}',
            "number into Go struct field CreateRequest.HostConfig.Privileged",
        ),
        ('{"Labels":{"a":1}}', "number into Go struct field CreateRequest.Labels.a of type string"),
        ('{"HostConfig":[]}', "array into Go struct field CreateRequest.HostConfig of type"),
        ("[]", "cannot unmarshal array into Go value of type container.CreateRequest"),
        ('{"Memory":true, "Env":[5]}', "number into Go struct field CreateRequest.Env of type string"),
    ],
)
def test_a_wrong_type_names_field_and_value(text: str, message: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        decode(text)
    assert str(refused.value).startswith("invalid JSON: json: cannot unmarshal ")
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "invalid JSON: got EOF while reading request body"),
        ("  \n", "invalid JSON: got EOF while reading request body"),
        ("x", "invalid JSON: invalid character 'x' looking for beginning of value"),
        ('{"a"', "invalid JSON: unexpected EOF"),
        ('{"a":"b', "invalid JSON: unexpected EOF"),
        ("{a}", "invalid JSON: invalid character 'a' looking for beginning of object key string"),
        ('{"a":1 "b"}', "invalid JSON: invalid character '\"' after object key:value pair"),
        ('{"a" 1}', "invalid JSON: invalid character '1' after object key"),
        ("[1 2]", "invalid JSON: invalid character '2' after array element"),
        ('{"a":[1 2]}', "invalid JSON: invalid character '2' after array element"),
        ('{"a":tru}', "invalid JSON: invalid character '}' in literal true (expecting 'e')"),
        ('{"a":"\\x"}', "invalid JSON: invalid escape sequence `\\x` in string"),
        ("{} {}", "unexpected content after JSON"),
        ("{} x", "unexpected content after JSON"),
    ],
)
def test_malformed_json_is_explained_as_go_does(text: str, message: str) -> None:
    """The texts are those of dockerd 28.5 for the same bodies."""
    with pytest.raises(InvalidArgument) as refused:
        decode(text)
    assert str(refused.value) == message


def test_network_bodies_name_their_own_struct() -> None:
    with pytest.raises(InvalidArgument, match=r"Go struct field CreateRequest\.Name of type string"):
        decode('{"Name":5}', NetworkCreateRequest)


@unhurried
@given(st.binary(max_size=200))
def test_any_bytes_are_decoded_or_refused(raw: bytes) -> None:
    try:
        result = body.decode(raw, CreateRequest, "CreateRequest")
    except InvalidArgument as refused:
        assert str(refused)
    else:
        assert isinstance(result, dict)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
keys = st.sampled_from(["Image", "HostConfig", "Env", "Cmd", "Labels", "Healthcheck", "Volumes", "memory"])


@unhurried
@given(st.dictionaries(keys, json_values))
def test_any_json_is_decoded_or_refused(value: dict[str, Any]) -> None:
    try:
        result = decode(json.dumps(value))
    except InvalidArgument:
        return
    assert all(isinstance(result[key], str) for key in result.keys() & {"Image"})
    assert all(isinstance(result[key], list) for key in result.keys() & {"Env", "Cmd"})


@unhurried
@given(st.text(max_size=50), st.text(max_size=50))
def test_any_malformed_text_around_json_is_refused_with_a_reason(before: str, after: str) -> None:
    text = before + '{"a": }' + after
    assert body.syntax_message(text.encode("utf-8", "surrogatepass")) != ""


@pytest.mark.parametrize("padding", ["", "="])
@pytest.mark.parametrize("encode", [base64.urlsafe_b64encode, base64.b64encode])
def test_credentials_in_every_base64(padding: str, encode: Any) -> None:
    fields = {"username": "u?>~", "password": "p" * 7}
    encoded = encode(json.dumps(fields).encode()).decode()
    assert decode_auth(encoded if padding else encoded.rstrip("=")) == fields


@pytest.mark.parametrize("header", ["", "e30=", "e30", "!!", "bnVsbA==", "W10=", "é"])
def test_what_is_no_credential_is_anonymous(header: str) -> None:
    assert decode_auth(header) is None


def test_timestamps() -> None:
    assert timestamp("") is None
    assert timestamp("1136073600.000000001") == 1136073600 * 10**9 + 1
    assert timestamp("5.5") == 5_500_000_000
    assert timestamp("5.1234567899") == 5_123_456_789
    with pytest.raises(InvalidArgument, match=r'strconv\.ParseInt: parsing "x": invalid syntax'):
        timestamp("x")


def test_versions_out_of_range() -> None:
    too_old = refusal("1.23", parse("1.23"))
    assert too_old == (
        "client version 1.23 is too old. Minimum supported API version is 1.24, "
        "please upgrade your client to a newer version"
    )
    too_new = refusal("1.52", parse("1.52"))
    assert too_new == "client version 1.52 is too new. Maximum supported API version is 1.51"
    assert refusal("1.24", parse("1.24")) is None
    assert refusal("1.51", parse("1.51")) is None
    assert refusal("1", parse("1")) is not None
