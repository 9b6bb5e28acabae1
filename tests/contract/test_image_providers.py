"""What every image provider promises, held against every built-in one; vendors are fakes that fail in every way listed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest

from plugins.providers import gemini, midjourney, openai_images, stability
from tests.fakes.gemini import FakeGeminiImages, picture_part
from tests.fakes.midjourney import TRUEAI, FakeMidjourney
from tests.fakes.openai_images import FakeOpenAIImages
from tests.fakes.server import FakeReply, Fault
from tests.fakes.stability import FakeStability
from tests.fakes.vendor import KEY, FakeImageVendor, Trouble, tiny_png
from webapp.plugin import (
    BadCredentials,
    ContextTooLong,
    Drawn,
    Finish,
    Health,
    ImageAction,
    ImageCall,
    ImageProvider,
    MalformedAnswer,
    OutOfCredit,
    Progress,
    ProviderError,
    RateLimited,
    RefusedByPolicy,
    Rejected,
    TimedOut,
    Unavailable,
    Usage,
    VariableKind,
)
from webapp.routing.http import build_client, call_limits

PNG = tiny_png(16, 16)
JPEG = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00" + bytes(40)
WEBP = b"RIFF\x24\x00\x00\x00WEBPVP8 " + bytes(40)
GIF = b"GIF89a\x01\x00\x01\x00" + bytes(40)


@dataclass(frozen=True, slots=True)
class Case:
    """A plugin, its fake, and how to have the fake filter a picture or draw other bytes."""

    plugin: ModuleType
    make: Callable[[], FakeImageVendor]
    filter: Callable[[Any], None]
    draw: Callable[[Any, bytes], None]


def _filter(fake: Any) -> None:
    fake.filtered = True


def _filter_openai(fake: FakeOpenAIImages) -> None:
    fault = fake.trouble(Trouble.POLICY)
    assert fault is not None
    fake.faults.append(fault)


def _filter_gemini(fake: FakeGeminiImages) -> None:
    fake.finish, fake.parts = "IMAGE_SAFETY", []


def _draw(fake: Any, data: bytes) -> None:
    fake.picture = data


def _draw_openai(fake: FakeOpenAIImages, data: bytes) -> None:
    fake.pictures = [data]


def _draw_gemini(fake: FakeGeminiImages, data: bytes) -> None:
    fake.parts = [picture_part(data)]


CASES = {
    "openai": Case(openai_images, FakeOpenAIImages, _filter_openai, _draw_openai),
    "gemini": Case(gemini, FakeGeminiImages, _filter_gemini, _draw_gemini),
    "stability": Case(stability, FakeStability, _filter, _draw),
    "midjourney-novicezk": Case(midjourney, FakeMidjourney, _filter, _draw),
    "midjourney-trueai": Case(midjourney, lambda: FakeMidjourney(flavour=TRUEAI), _filter, _draw),
}


def provider_of(plugin: ModuleType, settings: Mapping[str, str]) -> ImageProvider:
    [found] = [p for p in plugin.register_providers(settings) if isinstance(p, ImageProvider)]
    return found


def call(**changes: object) -> ImageCall:
    values = {"request_id": "r1", "model": "", "prompt": "A lighthouse at dusk", "timeout_s": 20.0}
    return ImageCall(**(values | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    with build_client() as client:
        yield client


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture
def vendor(case: Case, http: httpx.Client) -> Iterator[FakeImageVendor]:
    with case.make() as fake:
        yield fake


@pytest.fixture
def provider(case: Case, vendor: FakeImageVendor) -> ImageProvider:
    return provider_of(case.plugin, vendor.settings)


def drawing(provider: ImageProvider, http: httpx.Client, **changes: object) -> tuple[list[Drawn], Usage]:
    """A whole answer; asserts the shape that every provider promises."""
    with call_limits(20, 10), closing(provider.draw(call(**changes), http)) as steps:  # type: ignore[type-var]
        *before, usage = steps
    progress = [step.percent for step in before if isinstance(step, Progress)]
    pictures = [step for step in before if isinstance(step, Drawn)]
    assert before == [*map(Progress, progress), *pictures]
    assert progress == sorted(progress)
    assert all(0 <= percent <= 100 for percent in progress)
    assert pictures
    assert isinstance(usage, Usage)
    return pictures, usage


def failure(provider: ImageProvider, http: httpx.Client, silence_s: float = 5.0, **changes: object) -> ProviderError:
    """The typed error a call ends in: any other exception fails the test, and so does a call that hangs or a picture."""
    started, got = time.monotonic(), []
    with call_limits(8, silence_s), pytest.raises(ProviderError) as raised:
        got.extend(provider.draw(call(**changes), http))
    assert time.monotonic() - started < 8
    assert not any(isinstance(step, Drawn) for step in got)
    error = raised.value
    assert error.message
    assert KEY not in f"{error.message} {error.detail} {error!r} {error.__cause__!r}"
    assert len(error.detail) <= 500
    return error


# -- who it is -------------------------------------------------------------------------------------------------------
def test_it_says_who_it_is_and_which_variables_it_reads(provider: ImageProvider, vendor: FakeImageVendor) -> None:
    assert provider.name == vendor.name == provider.name.lower()
    assert provider.label
    assert provider.default_model == vendor.model
    assert isinstance(provider.preference, int)
    assert provider.price_as
    assert provider.base_url.startswith(vendor.url)
    assert not provider.base_url.endswith("/")
    assert vendor.settings.keys() - {"GEMINI_MODEL"} <= {variable.name for variable in provider.environment}
    for variable in provider.environment:
        assert variable.name.isupper()
        assert variable.meaning.endswith(".")
        assert variable.secret == variable.name.endswith(("_API_KEY", "_SECRET"))
        assert (variable.kind is VariableKind.URL) == variable.name.endswith("_URL")
        assert (variable.kind is VariableKind.MODEL) == variable.name.endswith("_MODEL")
        assert not variable.choices or variable.default in variable.choices


def test_it_is_ready_when_its_variables_are_set_and_says_so_without_a_call(
    provider: ImageProvider, vendor: FakeImageVendor
) -> None:
    assert provider.missing() == ""
    assert provider.model_info(provider.default_model).id == provider.default_model
    assert vendor.requests == []


def test_one_that_lacks_its_settings_names_the_variable_and_checks_as_not_ok(case: Case, http: httpx.Client) -> None:
    bare = provider_of(case.plugin, {})
    assert bare.missing().split(" ")[0] in {variable.name for variable in bare.environment}
    health = bare.check(http)
    assert not health.ok
    assert health.cure


@pytest.mark.parametrize("address", ["gpu:8000", "ftp://gpu", "http://", "http://[::1", "http://gpu/v1?x=1", "http://gpu:x"])
def test_an_address_that_cannot_be_called_is_reported_by_its_variable(case: Case, address: str) -> None:
    with case.make() as fake:
        settings = fake.settings
    [name] = [name for name in settings if name.endswith("_URL")]
    found = provider_of(case.plugin, {**settings, name: address})
    assert found.missing().split(" ")[0] == name


def test_a_key_that_no_header_can_carry_is_reported_and_not_shown(case: Case) -> None:
    with case.make() as fake:
        settings = fake.settings
    [name] = [name for name in settings if name.endswith(("_API_KEY", "_SECRET"))]
    missing = provider_of(case.plugin, {**settings, name: "ключ"}).missing()
    assert name in missing
    assert "ключ" not in missing


# -- a good answer ---------------------------------------------------------------------------------------------------
def test_pictures_come_first_and_then_exactly_one_usage(
    provider: ImageProvider, vendor: FakeImageVendor, http: httpx.Client
) -> None:
    pictures, usage = drawing(provider, http)
    assert len(pictures) == usage.pictures == 1
    assert pictures[0].picture.media_type == "image/png"
    assert pictures[0].picture.data.startswith(b"\x89PNG")
    assert usage.finish is Finish.STOP
    assert usage.model
    [told] = vendor.reported
    assert told.pictures == usage.pictures
    assert (usage.input_tokens or 0, usage.output_tokens or 0) == (told.input_tokens, told.output_tokens)
    assert usage.picture_output_tokens == told.output_tokens


@pytest.mark.parametrize(
    ("data", "media_type"), [(PNG, "image/png"), (JPEG, "image/jpeg"), (WEBP, "image/webp"), (GIF, "image/gif")]
)
def test_what_kind_of_picture_it_is_is_read_from_its_bytes(
    case: Case, provider: ImageProvider, vendor: FakeImageVendor, http: httpx.Client, data: bytes, media_type: str
) -> None:
    case.draw(vendor, data)
    [drawn], _ = drawing(provider, http)
    assert drawn.picture.media_type == media_type
    assert drawn.picture.data == data


def test_a_wrong_content_type_does_not_matter(provider: ImageProvider, vendor: FakeImageVendor, http: httpx.Client) -> None:
    vendor.faults.append(Fault(headers={"Content-Type": "text/html"}, handled=True))
    assert drawing(provider, http)


def test_a_prompt_of_any_characters_is_sent(provider: ImageProvider, vendor: FakeImageVendor, http: httpx.Client) -> None:
    prompt = 'Grüße 世界 👩‍🚀 "quoted"\r\n--boundary\n\x00\ud83d'
    assert drawing(provider, http, prompt=prompt, negative_prompt="ü\ud83d", style="ö\ud83d", person_ref="0f3a")


def test_every_shape_and_seed_is_taken_as_near_as_can_be(provider: ImageProvider, http: httpx.Client) -> None:
    for width, height in [(1, 1), (4000, 10), (10, 4000), (1023, 767), (9999, 9999), (0, -5)]:
        assert drawing(provider, http, width=width, height=height, seed=2**70)
        assert drawing(provider, http, width=width, height=height, seed=-1)


def test_an_action_that_is_not_its_own_is_rejected_without_a_call(
    provider: ImageProvider, vendor: FakeImageVendor, http: httpx.Client
) -> None:
    for token in ("", "U1", "change x/../y U1", "x" * 5000, "button 1 MJ::JOB::upsample::1\r\nX: y"):
        assert type(failure(provider, http, action=ImageAction("U1", token))) is Rejected
    assert vendor.requests == []


def test_its_models_can_be_listed(provider: ImageProvider, http: httpx.Client) -> None:
    listed = provider.models(http)
    assert listed
    assert all(info.id for info in listed)


# -- what goes wrong -------------------------------------------------------------------------------------------------
TROUBLES: dict[Trouble, type[ProviderError]] = {
    Trouble.RATE_LIMITED: RateLimited,
    Trouble.OVERLOADED: Unavailable,
    Trouble.DOWN: Unavailable,
    Trouble.BAD_KEY: BadCredentials,
    Trouble.NO_CREDIT: OutOfCredit,
    Trouble.NO_MODEL: Rejected,
    Trouble.TOO_LONG: ContextTooLong,
    Trouble.POLICY: RefusedByPolicy,
    Trouble.BAD_REQUEST: Rejected,
}
RARE = {
    "stability": {Trouble.OVERLOADED},
    "midjourney": {Trouble.NO_CREDIT, Trouble.NO_MODEL, Trouble.TOO_LONG},
}
"""What a vendor has no way to say."""


@pytest.mark.parametrize("kind", Trouble)
def test_every_trouble_is_the_right_typed_error(
    provider: ImageProvider, vendor: FakeImageVendor, http: httpx.Client, kind: Trouble
) -> None:
    fault = vendor.trouble(kind)
    assert (fault is None) == (kind in RARE.get(vendor.name, ()))
    if fault is not None:
        vendor.faults.append(fault)
        assert type(failure(provider, http)) is TROUBLES[kind]
        assert len(vendor.requests) == 1


def test_a_filtered_picture_is_refused_by_policy_and_not_shown(
    case: Case, provider: ImageProvider, vendor: FakeImageVendor, http: httpx.Client
) -> None:
    case.filter(vendor)
    error = failure(provider, http)
    assert type(error) is RefusedByPolicy
    assert error.usage is None or error.usage.pictures == 0


def test_a_wrong_key_is_bad_credentials(case: Case, vendor: FakeImageVendor, http: httpx.Client) -> None:
    provider = provider_of(case.plugin, vendor.settings)
    vendor.key = "another-key-than-ours"
    assert type(failure(provider, http)) is BadCredentials
    assert not provider.check(http).ok


NETWORK: list[tuple[Fault, type[ProviderError]]] = [
    (Fault(drop=True), Unavailable),
    (Fault(garbage=b"\x00\x01 this is not HTTP\r\n\r\n"), MalformedAnswer),
    (Fault(garbage=b""), Unavailable),
    (Fault(hang=True), TimedOut),
    (Fault(status=301, headers={"Location": "/elsewhere"}), Rejected),
    (Fault(status=404, body=b"<html>Not Found</html>"), Rejected),
    (Fault(status=502, body=b"<html>Bad Gateway</html>"), Unavailable),
    (Fault(status=504), TimedOut),
    (Fault(status=500, body=b"x" * 1000, cut_after_bytes=10), Unavailable),
    (Fault(status=400, body=b"\xff\xfe<html>" * 9000), Rejected),
    (Fault(status=400, body=b"[" * 50_000), Rejected),
    (Fault(status=400, body=b'{"error": {"message": [[1]], "code": {}, "param": 5, "details": 5}, "errors": 3}'), Rejected),
    (Fault(status=401, body=f"who is {KEY}? ".encode() * 50), BadCredentials),
    (Fault(status=200, body=b"<html><body>It works!</body></html>"), MalformedAnswer),
    (Fault(status=200, body=b""), MalformedAnswer),
    (Fault(status=200, body=b"null"), MalformedAnswer),
    (Fault(status=200, body=b"[1, 2]"), MalformedAnswer),
    (Fault(status=200, body=b'{"data": '), MalformedAnswer),
    (Fault(status=200, body=b'{"data": "none", "candidates": 5, "image": 3, "code": [], "result": {}}'), MalformedAnswer),
    (Fault(status=200, body=b'{"hello": 1}'), MalformedAnswer),
    (Fault(status=200, body=b"{" + b'"a":{' * 50_000), MalformedAnswer),
    (Fault(status=200, body=b"\xff\xfe\x00" * 99), MalformedAnswer),
    (Fault(status=200, body=b'{"data": [{"b64_json": "!"}], "image": "!", "code": 1, "result": "../../x"}'), MalformedAnswer),
]


@pytest.mark.parametrize(("fault", "kind"), NETWORK)
def test_a_broken_answer_is_the_right_typed_error(
    provider: ImageProvider, vendor: FakeImageVendor, http: httpx.Client, fault: Fault, kind: type[ProviderError]
) -> None:
    vendor.faults.append(fault)
    assert type(failure(provider, http, silence_s=0.15 if fault.hang else 5)) is kind


def test_silence_ends_with_the_time_of_the_call(provider: ImageProvider, vendor: FakeImageVendor, http: httpx.Client) -> None:
    vendor.faults.append(Fault(hang=True))
    assert type(failure(provider, http, timeout_s=0.2)) is TimedOut


def test_a_drip_of_blanks_does_not_keep_a_call_beyond_its_deadline(
    provider: ImageProvider, vendor: FakeImageVendor, http: httpx.Client
) -> None:
    def dripping() -> Iterator[bytes]:
        while not vendor.stopping.wait(0.02):
            yield b" "

    vendor.handle = lambda _: FakeReply(200, {"Content-Type": "application/json"}, dripping())  # type: ignore[method-assign]
    started = time.monotonic()
    with call_limits(0.4, 5), pytest.raises(TimedOut):
        list(provider.draw(call(), http))
    assert time.monotonic() - started < 3


def test_a_stream_without_an_end_is_not_read_for_ever(
    provider: ImageProvider, vendor: FakeImageVendor, http: httpx.Client
) -> None:
    def endless() -> Iterator[bytes]:
        while not vendor.stopping.is_set():
            yield b" " * 1_000_000

    vendor.handle = lambda _: FakeReply(200, {"Content-Type": "application/json"}, endless())  # type: ignore[method-assign]
    assert type(failure(provider, http)) is MalformedAnswer


def test_an_answer_of_any_size_is_not_read_to_its_end(
    provider: ImageProvider, vendor: FakeImageVendor, http: httpx.Client
) -> None:
    vendor.faults.append(Fault(status=200, body=b'{"data": "' + b"x" * 100_000_000))
    assert type(failure(provider, http)) is MalformedAnswer
    vendor.wait_until(lambda: len(vendor.abandoned) == 1)


def test_an_answer_cut_anywhere_is_malformed_and_never_a_piece_of_a_picture(
    provider: ImageProvider, vendor: FakeImageVendor, http: httpx.Client
) -> None:
    drawing(provider, http)
    whole = vendor.handle(vendor.requests[0]).body
    assert isinstance(whole, bytes)
    for position in range(0, len(whole), max(1, len(whole) // 40)):
        vendor.faults.append(Fault(cut_after_bytes=position))
        assert type(failure(provider, http)) is MalformedAnswer


@pytest.mark.parametrize(
    "data", [b"", b"<svg xmlns='x'/>", b"<html>", b"\x89PNG", b"BM" + bytes(90), b"%PDF-1.7", PNG + bytes(20 * 1024 * 1024)]
)
def test_what_is_no_picture_or_too_large_a_one_is_malformed(
    case: Case, provider: ImageProvider, vendor: FakeImageVendor, http: httpx.Client, data: bytes
) -> None:
    case.draw(vendor, data)
    assert type(failure(provider, http)) is MalformedAnswer


def test_nobody_listening_is_unavailable(case: Case, http: httpx.Client) -> None:
    with case.make() as gone:
        settings = gone.settings
    provider = provider_of(case.plugin, settings)
    assert type(failure(provider, http)) is Unavailable
    health = provider.check(http)
    assert not health.ok
    assert health.cure


# -- a look at the vendor --------------------------------------------------------------------------------------------
def test_a_cheap_look_is_healthy_and_draws_nothing(
    provider: ImageProvider, vendor: FakeImageVendor, http: httpx.Client
) -> None:
    health = provider.check(http)
    assert health.ok, health
    assert health.detail
    assert not vendor.reported
    assert not getattr(vendor, "calls", [])


@pytest.mark.parametrize("fault", [fault for fault, _ in NETWORK])
def test_a_look_raises_nothing_whatever_comes(
    provider: ImageProvider, vendor: FakeImageVendor, http: httpx.Client, fault: Fault
) -> None:
    vendor.faults += [fault, fault]
    with call_limits(8, 0.15 if fault.hang else 5):
        health = provider.check(http)
    assert isinstance(health, Health)
    assert health.ok or health.cure
    assert KEY not in f"{health}"


# -- hanging up ------------------------------------------------------------------------------------------------------
def test_closing_early_leaves_no_thread_and_no_socket(case: Case) -> None:
    def sockets() -> int:
        return len([link for link in Path("/dev/fd").iterdir() if link.is_socket()])

    threads, before = set(threading.enumerate()), sockets()
    with case.make() as vendor, build_client() as http:
        provider = provider_of(case.plugin, vendor.settings)
        for _ in range(3):
            with closing(provider.draw(call(), http)) as steps:  # type: ignore[type-var]
                assert isinstance(next(steps), Drawn | Progress)
        untouched = provider.draw(call(), http)
        untouched.close()  # type: ignore[attr-defined]
    # The fake's thread for a connection ends a moment after the connection has. A browser of other tests has threads too.
    until, left = time.monotonic() + 5, ["?"]
    while left and time.monotonic() < until:
        left = [t.name for t in set(threading.enumerate()) - threads if not t.name.startswith(("asyncio", "Dummy"))]
        time.sleep(0.01)
    assert left == []
    assert sockets() <= before
