"""What is told of a daemon and what is believed of it: only what keeps to the rules."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.node.lan.dns_sd import (
    MAX_INSTANCE_BYTES,
    MAX_TEXT_BYTES,
    SERVICE_TYPE,
    Auth,
    ServiceText,
    TextError,
    decode_text,
    instance_name,
    instance_of,
    shown,
)
from edged.node.trust.fingerprint import fingerprint

FINGERPRINT = fingerprint(b"a certificate")
OPEN = ServiceText("1.2.3", Auth.NONE, "")


def strings(*texts: bytes) -> bytes:
    return b"".join(bytes((len(text),)) + text for text in texts)


GOOD = (b"txtvers=1", b"ver=1.2.3", b"api=edged.v1", b"auth=none", b"tls=0")


@pytest.mark.parametrize("text", [OPEN, ServiceText("0.1.0", Auth.TOKEN, FINGERPRINT)])
def test_what_is_told_is_read(text: ServiceText) -> None:
    raw = text.encode()
    assert raw.startswith(b"\x09txtvers=1"), "the first of all"
    assert len(raw) < 400
    assert decode_text(raw) == text


def test_what_is_not_known_is_ignored() -> None:
    assert decode_text(strings(*GOOD, b"later=x", b"flag", b"=nothing", b"")) == OPEN


def test_the_first_of_a_key_counts() -> None:
    assert decode_text(strings(*GOOD, b"ver=9.9.9", b"tls=1")) == OPEN


def test_keys_have_no_case() -> None:
    assert decode_text(strings(b"TXTVERS=1", *GOOD[1:])) == OPEN


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "txtvers is None"),
        (strings(b"txtvers=2", *GOOD[1:]), "txtvers is '2'"),
        (strings(*GOOD[:2], b"api=edged.v2", *GOOD[3:]), "api is 'edged.v2'"),
        (strings(b"txtvers=1", b"ver=1;rm", *GOOD[2:]), "ver is '1;rm'"),
        (strings(b"txtvers=1", b"ver=" + b"1" * 33, *GOOD[2:]), "ver is '1111"),
        (strings(*GOOD[:3], b"auth=password", b"tls=0"), "auth is 'password'"),
        (strings(*GOOD[:4], b"tls=yes"), "tls is 'yes'"),
        (strings(*GOOD, b"fp=" + b"A" * 43), "fp without tls"),
        (strings(*GOOD[:4], b"tls=1"), "fp is ''"),
        (strings(*GOOD[:4], b"tls=1", b"fp=" + b"A" * 42), "fp is 'AAA"),
        (strings(*GOOD[:4], b"tls=1", b"fp=" + b"A" * 42 + b"B"), "fp is 'AAA"),
        (strings(*GOOD, b"averylongk=1"), "a key of TXT is b'averylongk'"),
        (strings(*GOOD, b"k\x1b=1"), "a key of TXT is b'k\\x1b'"),
        (strings(*GOOD, b"k=\xff"), "the value of k is not UTF-8"),
        (strings(*GOOD)[:-1], "a string of TXT is longer than TXT"),
        (strings(*GOOD, b"x" * 255, b"y" * 255), "TXT has 5"),
    ],
)
def test_what_breaks_a_rule_is_refused_with_the_reason(raw: bytes, why: str) -> None:
    with pytest.raises(TextError, match="^" + why.replace("\\", "\\\\")):
        decode_text(raw)


def test_the_longest_that_is_read() -> None:
    rest = MAX_TEXT_BYTES - len(strings(*GOOD))
    filler = strings(b"a=" + b"x" * 200, b"b=" + b"x" * (rest - 203 - 3))
    assert len(strings(*GOOD) + filler) == MAX_TEXT_BYTES
    assert decode_text(strings(*GOOD) + filler) == OPEN
    with pytest.raises(TextError, match="expected at most 399"):
        decode_text(strings(*GOOD) + filler + b"\0")


@given(st.binary(max_size=500))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    try:
        text = decode_text(raw)
    except TextError:
        return
    assert decode_text(text.encode()) == text


def test_terminals_are_not_told_what_to_do() -> None:
    assert shown("a\x1b[2J\u202eb\u2028\x9b\x00") == "a�[2J�b���"
    assert shown("Büro 2 · 客厅") == "Büro 2 · 客厅"


@given(st.text(), st.sampled_from(["", " (2)", " (0123abcd)"]))
def test_any_text_becomes_one_label(text: str, suffix: str) -> None:
    name = instance_name(text, suffix)
    assert 1 <= len(name.encode()) <= MAX_INSTANCE_BYTES
    assert "." not in name
    assert name.isprintable()
    assert name.endswith(suffix)
    assert instance_of(f"{name}.{SERVICE_TYPE}") == name


def test_a_name_of_another_type_is_none() -> None:
    assert instance_of(f"Studio.{SERVICE_TYPE.upper()}") == "Studio"
    assert instance_of("Studio._http._tcp.local.") is None
    assert instance_of(SERVICE_TYPE) is None
    assert instance_of(f"{'x' * 64}.{SERVICE_TYPE}") is None
