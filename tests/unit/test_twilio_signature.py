"""Twilio's signature: its published vectors, and every way of getting past it that we could think of."""

from __future__ import annotations

import hashlib
from urllib.parse import urlencode

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from plugins.channels.twilio import TwilioChannel
from plugins.channels.twilio.signature import Key, form_pairs, sign, variants, verify, verify_json
from tests.fakes.twilio import AUTH_TOKEN, TwilioSigner

URL = "https://sms.example.com/sms/receive?ch=1"
URL_WITH_PORT = "https://sms.example.com:443/sms/receive?ch=1"
SHA1, SHA256 = "GYll0lblLopKxxgvsfq4XNPFtBQ=", "Q77+Km+r+ehVQafe8CIj61hWAk8Nvs+q+AFVfY40f0w="
SHA1_WITH_PORT = "a2hdlzFlPXf584IPZNVV2niqfTo="
FORM = [
    ("MessageSid", "SM00000000000000000000000000000001"),
    ("From", "+15005550006"),
    ("To", "+15005550001"),
    ("Body", "Héllo & welcome"),
    ("NumMedia", "0"),
    ("FromCity", ""),
]
KEYS = (Key(AUTH_TOKEN),)

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
FORMS = st.dictionaries(NAMES, TEXTS, min_size=1, max_size=12)


def test_the_vectors_of_twilios_own_library() -> None:
    assert sign(URL, FORM, Key(AUTH_TOKEN)) == SHA1
    assert sign(URL, FORM, Key(AUTH_TOKEN, "sha256")) == SHA256
    assert sign(URL_WITH_PORT, FORM, Key(AUTH_TOKEN)) == SHA1_WITH_PORT


@pytest.mark.parametrize("url", [URL, URL_WITH_PORT])
@pytest.mark.parametrize("signature", [SHA1, SHA1_WITH_PORT])
def test_the_default_port_may_be_named_or_not_on_either_side(url: str, signature: str) -> None:
    assert verify(url, FORM, signature, KEYS)


def test_the_vector_for_a_json_body() -> None:
    body = b'{"a":1}'
    digest = "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"
    url = f"https://sms.example.com/sms/receive?bodySHA256={digest}"
    signature = "Y7QnH8uGfMuLD6A+M370XtDfL/g="
    assert verify_json(url, body, digest, signature, KEYS)
    assert not verify_json(url, b'{"a":2}', digest, signature, KEYS)
    # The hash of another body in the parameter is not the hash that was signed in the URL.
    other = hashlib.sha256(b'{"a":2}').hexdigest()
    assert not verify_json(url.replace(digest, other), b'{"a":2}', other, signature, KEYS)


def test_a_json_body_without_its_hash_is_nobodys() -> None:
    url = "https://sms.example.com/sms/receive"
    assert not verify_json(url, b"{}", "", sign(url, [], KEYS[0]), KEYS)


@pytest.mark.parametrize("signature", ["", " ", "x", SHA1[:-1], SHA1.lower(), SHA256, "é" * 28, "\ud800", SHA1 + "\n"])
def test_anything_else_in_the_header_is_refused(signature: str) -> None:
    assert not verify(URL, FORM, signature, KEYS)


def test_the_other_token_is_accepted_during_rotation_and_no_third() -> None:
    channel = TwilioChannel({"TWILIO_AUTH_TOKEN": "new", "TWILIO_AUTH_TOKEN_SECONDARY": "old"})
    assert channel.verify(URL, FORM, sign(URL, FORM, Key("new")))
    assert channel.verify(URL, FORM, sign(URL, FORM, Key("old")))
    assert not channel.verify(URL, FORM, sign(URL, FORM, Key("third")))


def test_once_a_shared_key_is_set_sha1_is_not_accepted() -> None:
    channel = TwilioChannel({"TWILIO_AUTH_TOKEN": AUTH_TOKEN, "TWILIO_SHARED_KEY_SECRET": "shared"})
    assert channel.verify(URL, FORM, sign(URL, FORM, Key("shared", "sha256")))
    assert not channel.verify(URL, FORM, sign(URL, FORM, Key("shared")))
    assert not channel.verify(URL, FORM, SHA1)


def test_without_a_token_nothing_is_verified() -> None:
    assert not TwilioChannel({}).verify(URL, FORM, sign(URL, FORM, Key("")))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://a.example/x", {"https://a.example/x", "https://a.example:443/x"}),
        ("http://a.example:80/x?y=:443", {"http://a.example:80/x?y=:443", "http://a.example/x?y=:443"}),
        ("https://a.example:8443/x", {"https://a.example:8443/x", "https://a.example/x"}),
        ("https://u:p@a.example/x", {"https://u:p@a.example/x", "https://u:p@a.example:443/x"}),
        ("https://u:1@a.example:443/x", {"https://u:1@a.example:443/x", "https://u:1@a.example/x"}),
        ("http://[::1]/x", {"http://[::1]/x", "http://[::1]:80/x"}),
        ("http://[::1]:80/x", {"http://[::1]:80/x", "http://[::1]/x"}),
        ("https://a.example?q=a:b@c", {"https://a.example?q=a:b@c", "https://a.example:443?q=a:b@c"}),
    ],
)
def test_only_the_port_varies(url: str, expected: set[str]) -> None:
    assert set(variants(url)) == expected


def test_a_repeated_name_is_signed_with_its_distinct_values_in_order() -> None:
    one = [("A", "2"), ("A", "1"), ("A", "2"), ("B", "")]
    assert sign(URL, one, KEYS[0]) == sign(URL, [("B", ""), ("A", "1"), ("A", "2")], KEYS[0])
    assert sign(URL, one, KEYS[0]) == TwilioSigner().sign(URL, one)


def test_names_are_sorted_by_code_point_and_blank_values_count() -> None:
    form = [("b", "1"), ("B", "2"), ("a", ""), ("ä", "3"), ("Z", "4")]
    assert sign("u", form, KEYS[0]) == TwilioSigner().sign("u", form)
    assert sign("u", [("A", ""), ("B", "x")], KEYS[0]) != sign("u", [("B", "x")], KEYS[0])


@pytest.mark.parametrize("body", [b"Body=%FF", b"Body=%C3", b"Body=\xff", b"B%80dy=1", b"Body=%ED%A0%80"])
def test_a_form_that_is_not_utf8_cannot_be_read_in_two_ways(body: bytes) -> None:
    with pytest.raises(ValueError):
        form_pairs(body)


def test_a_form_is_read_with_blanks_duplicates_and_any_character() -> None:
    pairs = [("a", ""), ("b", "1"), ("b", "2"), ("c", "\x00 😀 שלום & = + %"), ("", "x")]
    assert form_pairs(urlencode(pairs).encode()) == pairs


@given(FORMS, st.sampled_from([URL, URL_WITH_PORT, "http://[::1]:8000/sms/receive"]))
def test_what_twilio_signed_is_accepted(form: dict[str, str], url: str) -> None:
    signature = TwilioSigner().sign(url, form)
    assert verify(url, form_pairs(urlencode(form).encode()), signature, KEYS)


@given(FORMS, st.data())
def test_no_single_character_can_be_altered(form: dict[str, str], data: st.DataObject) -> None:
    signature = TwilioSigner().sign(URL, form)
    pairs = list(form.items())
    number = data.draw(st.integers(0, len(pairs) - 1))
    name, value = pairs[number]
    assume(value)
    at = data.draw(st.integers(0, len(value) - 1))
    char = data.draw(st.characters(exclude_categories=["Cs"]))
    assume(char != value[at])
    pairs[number] = (name, value[:at] + char + value[at + 1 :])
    assert not verify(URL, pairs, signature, KEYS)


@given(st.integers(0, len(SHA1) - 1), st.characters())
def test_no_single_character_of_the_signature_can_be_altered(at: int, char: str) -> None:
    assume(char != SHA1[at])
    assert not verify(URL, FORM, SHA1[:at] + char + SHA1[at + 1 :], KEYS)


@given(st.integers(0, len(URL) - 1), st.characters(exclude_categories=["Cs"]))
def test_no_single_character_of_the_address_can_be_altered(at: int, char: str) -> None:
    assume(char != URL[at])
    assert not verify(URL[:at] + char + URL[at + 1 :], FORM, SHA1, KEYS)


@pytest.mark.parametrize("change", ["added", "removed"])
def test_no_parameter_can_be_added_or_removed(change: str) -> None:
    pairs = [*FORM, ("OptOutType", "STOP")] if change == "added" else FORM[:3] + FORM[4:]
    assert not verify(URL, pairs, SHA1, KEYS)
