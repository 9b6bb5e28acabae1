"""What calls are charged when vendors and plugins tell little, nothing or nonsense: never free, never twice, and labelled."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from decimal import Decimal
from types import ModuleType
from typing import Any

import httpx
import pytest
from flask import Flask
from PIL import Image
from sqlalchemy import select, update

from tests.integration.vendor_support import attempts, install
from tests.support import add_person, assert_books_balance, books, one, requests, rows, run_jobs, text
from webapp.contracts.calls import Finish, Picture
from webapp.contracts.limits import Dimension
from webapp.contracts.pictures import Drawn, ImageCall, Progress
from webapp.contracts.providers import ImageProvider
from webapp.extensions import current_settings, now, reading, writing
from webapp.models import ErrorLog, Hold, LedgerEntry, LimitCounter, Request, RequestStatus
from webapp.models.columns import new_id
from webapp.pipeline import claims, execute, lease
from webapp.pipeline.admit import admit
from webapp.pipeline.intake import Intake
from webapp.pipeline.sweep import sweep
from webapp.plugin import (
    BadCredentials,
    ProviderError,
    RateLimited,
    RefusedByPolicy,
    Rejected,
    Text,
    TextCall,
    TextProvider,
    Unavailable,
    Usage,
    hookimpl,
)
from webapp.registry import current_registry
from webapp.routing import costs, prices, resilience, route
from webapp.routing.route import IMAGES

CEILING_PICTURE = 500_000
LONG = "an answer of some words " * 20


class Vendor(TextProvider):
    """A provider that yields or raises what it was given, one list of pieces a call; the last list again and again."""

    label, default_model = "Vendor", "m"

    def __init__(self, name: str, *calls: list[Any], **values: Any) -> None:
        self.name = name
        self.acts = list(calls)
        self.calls: list[TextCall] = []
        for attribute, value in values.items():
            setattr(self, attribute, value)

    def stream(self, call: TextCall, http: Any) -> Iterator[Any]:
        self.calls.append(call)
        return played(self.acts[min(len(self.calls), len(self.acts)) - 1])


def played(pieces: list[Any]) -> Iterator[Any]:
    for piece in pieces:
        if isinstance(piece, BaseException):
            raise piece
        yield piece


def asked(*vendors: TextProvider) -> Request:
    """A message that these answer, as it ended."""
    install(*vendors)
    text("What is the answer?")
    run_jobs()
    return requests()[-1]


def limit_to_what_is_held(dimension: Dimension) -> None:
    with writing() as connection:
        connection.execute(update(LimitCounter).where(LimitCounter.dimension == dimension).values(maximum=LimitCounter.held))


# -- what the vendor counted -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "usage",
    [
        Usage(0, 0),
        Usage(None, 0),
        Usage(0, None),
        Usage(),
        Usage(5_000_000, 5_000_000),
        Usage(credits=Decimal(3)),
    ],
    ids=repr,
)
def test_an_answer_whose_tokens_were_not_counted_is_charged_as_estimated(app: Flask, usage: Usage) -> None:
    assert asked(Vendor("v", [Text(LONG), usage])).status == RequestStatus.COMPLETED
    entry = one(select(LedgerEntry))
    assert entry.estimated
    assert entry.output_tokens == prices.estimate_tokens(LONG)
    assert 0 < entry.input_tokens < 1000
    assert entry.cost_microusd > 0
    assert_books_balance()


@pytest.mark.parametrize(
    ("usage", "output_tokens"), [(Usage(None, 7), 7), (Usage(0, 7), 7), (Usage(5_000_000, 7), 7), (Usage(50, None), None)]
)
def test_each_count_that_is_missing_is_estimated_by_itself(app: Flask, usage: Usage, output_tokens: int | None) -> None:
    asked(Vendor("v", [Text(LONG), usage]))
    entry = one(select(LedgerEntry))
    assert entry.estimated
    assert entry.output_tokens == (output_tokens or prices.estimate_tokens(LONG))
    assert (entry.input_tokens == 50) if usage.input_tokens == 50 else (0 < entry.input_tokens < 1000)
    assert_books_balance()


def test_a_cost_alone_is_charged_as_told_and_its_tokens_are_estimated(app: Flask) -> None:
    asked(Vendor("v", [Text(LONG), Usage(cost_usd=Decimal("0.001"))]))
    entry = one(select(LedgerEntry))
    assert (entry.cost_microusd, entry.price_source, entry.estimated) == (1000, "vendor", True)
    assert entry.output_tokens == prices.estimate_tokens(LONG)
    assert entry.input_tokens > 0
    assert_books_balance()


def test_what_the_vendor_counted_is_charged_as_counted(app: Flask) -> None:
    asked(Vendor("v", [Text(LONG), Usage(40, 90, finish=Finish.STOP)]))
    entry = one(select(LedgerEntry))
    assert (entry.input_tokens, entry.output_tokens, entry.estimated) == (40, 90, False)


@pytest.mark.parametrize("quality", [10**400, float("nan"), float("inf"), -1, "good", 2])
def test_a_quality_that_cannot_be_is_none(app: Flask, quality: Any) -> None:
    request = asked(Vendor("v", [Text("an answer"), Usage(10, 5, quality=quality)]))
    assert (request.status, request.answer, request.quality) == (RequestStatus.COMPLETED, "an answer", None)
    assert_books_balance()


class Bare(ProviderError):
    """As a plugin makes it that knows nothing of our errors' parts."""

    def __init__(self) -> None:
        Exception.__init__(self, "x")


@pytest.mark.parametrize(
    "error",
    [
        Bare(),
        Unavailable("x", usage={"input_tokens": 3}),  # type: ignore[arg-type]
        Rejected("x", usage=7),  # type: ignore[arg-type]
        Rejected(None, detail=7, status="many"),  # type: ignore[arg-type]
        RateLimited("x", retry_after_s=-5.0),
        RateLimited("x", retry_after_s=float("nan")),
        RateLimited("x", retry_after_s=10**400),
        RateLimited("x", retry_after_s="soon"),  # type: ignore[arg-type]
        Rejected("m" * 3_000_000, detail="d" * 3_000_000),
    ],
    ids=lambda error: repr(error)[:40],
)
def test_an_error_of_any_shape_fails_the_call_and_gives_its_place_back(
    make_app: Callable[..., Flask], error: ProviderError
) -> None:
    with make_app(provider_concurrent=1, retries=0).app_context():
        request = asked(Vendor("v", [error], preference=0), Vendor("w", [Text("fine"), Usage(5, 5)], preference=1))
        assert (request.status, request.answer) == (RequestStatus.COMPLETED, "fine")
        assert [made.outcome for made in attempts()] == ["failed", "completed"]
        assert resilience.state("v").in_flight == 0
        assert len(str(request.route)) < 3000
        assert_books_balance()


def test_a_provider_may_return_any_iterator(app: Flask) -> None:
    vendor = Vendor("v")
    vendor.stream = lambda call, http: iter([Text("fine"), Usage(5, 5)])  # type: ignore[method-assign]
    assert asked(vendor).answer == "fine"
    assert_books_balance()


def test_the_record_of_a_route_is_short_whatever_vendors_say(make_app: Callable[..., Flask]) -> None:
    with make_app(retries=10, retry_wait_s=0.01, breaker_failures=1000).app_context():
        names = [f"v{number}" for number in range(5)]
        request = asked(*(Vendor(name, [Unavailable("m" * 9000)]) for name in names))
        assert request.status == RequestStatus.FAILED
        models = (request.route or {})["models"]
        assert 0 < len(models) <= 20
        assert {len(made["why"]) for made in models if made["what"] == "failed"} == {300}


# -- limits that later calls may not pass --------------------------------------------------------------------------------
def test_a_fallback_that_the_token_limit_has_no_room_for_is_not_called(app: Flask) -> None:
    first = Vendor("a", [Unavailable("x", usage=Usage(300, 200))], preference=0)
    second = Vendor("b", [Text("ok"), Usage(300, 500)], preference=1)
    install(first, second)
    text("q")
    limit_to_what_is_held(Dimension.TOKENS)
    run_jobs()
    (request,) = requests()
    assert (request.status, request.error_code, second.calls) == (RequestStatus.FAILED, "limit_reached", [])
    assert books().counters["tokens"] == 500
    assert_books_balance()


def test_a_fallback_holds_the_tokens_that_it_may_use_beside_those_that_were_used(app: Flask) -> None:
    held: list[int] = []

    class Looking(Vendor):
        def stream(self, call: TextCall, http: Any) -> Iterator[Any]:
            with reading() as connection:
                found = connection.execute(select(Hold.amount).where(Hold.dimension == Dimension.TOKENS)).scalars()
                held.append(max(found))
            return super().stream(call, http)

    asked(
        Looking("a", [Unavailable("x", usage=Usage(300, 200))], preference=0),
        Looking("b", [Text("ok"), Usage(300, 500)], preference=1),
    )
    first, second = held
    assert second == first + 500
    assert_books_balance()


@pytest.mark.parametrize("finish", [Finish.LENGTH, Finish.FILTERED])
def test_an_empty_answer_that_would_be_empty_again_is_not_paid_again(app: Flask, finish: Finish) -> None:
    vendor = Vendor("v", [Usage(100, 300, finish=finish)])
    assert asked(vendor).error_code == "provider_malformed"
    assert len(vendor.calls) == 1
    assert one(select(LedgerEntry)).output_tokens == 300
    assert_books_balance()


def test_who_takes_a_request_over_does_not_hold_again_what_the_one_before_held(app: Flask) -> None:
    install(
        Vendor("a", [Unavailable("x")], preference=0, free_of_charge=True),
        Vendor("b", [Text("fine"), Usage(10, 5)], preference=1),
    )
    text("q")
    (request,) = requests()
    most = costs.most(route.named_target("b/m"), request.max_input_tokens, request.max_output_tokens).cost_microusd
    assert request.held_microusd < most
    with writing() as connection:
        # Room for the dear model once, and not twice.
        connection.execute(update(LimitCounter).where(LimitCounter.dimension == Dimension.COST).values(maximum=int(most * 1.5)))
    taken = claims.claim(request.id)
    assert taken is not None
    lost = execute.run(taken)
    assert next(lost) == "fine"
    assert one(select(Request)).held_microusd == most
    # The process is taken for dead after it held more.
    lease.end(taken.claim)
    with writing() as connection:
        connection.execute(update(Request).values(lease_until=now() - timedelta(seconds=999)))
    assert sweep().taken_over == 1
    resilience.reset("a")
    run_jobs()
    (request,) = requests()
    assert (request.status, request.answer) == (RequestStatus.COMPLETED, "fine")
    assert (books().held, books().open_holds) == (0, 0)
    assert [made.provider for made in attempts() if made.execution == 2] == ["a", "b"]


def test_an_execution_that_lost_its_request_holds_nothing_more(app: Flask) -> None:
    second = Vendor("b", [Text("fine"), Usage(10, 5)], preference=1)
    text("held while nothing costs anything")
    install(second)
    taken = claims.claim(requests()[0].id)
    assert taken is not None
    with writing() as connection:
        connection.execute(update(Request).values(claim=new_id()))
    before = books().held
    list(execute.run(taken))
    assert second.calls == []
    assert books().held == before


def test_a_kept_answer_that_is_not_read_to_its_end_is_free_all_the_same(app: Flask) -> None:
    install(Vendor("v", [Text("hello"), Usage(10, 5, finish=Finish.STOP)]))
    person = add_person(phone="+15005550006")
    for again in (False, True):
        admission = admit(Intake(medium="api", text="the same", person_id=person, new_conversation=True))
        assert admission.request_id is not None
        taken = claims.claim(admission.request_id)
        assert taken is not None
        pieces = execute.run(taken)
        assert next(pieces) == "hello"
        pieces.close() if again else list(pieces)  # type: ignore[attr-defined]
    assert [(r.status, r.cached) for r in requests()] == [("completed", False), ("cancelled", True)]
    assert books().counters["requests"] == sum(entry.requests for entry in rows(select(LedgerEntry))) == 1
    assert_books_balance()


# -- what a failure pauses -----------------------------------------------------------------------------------------------
class Picky(TextProvider):
    """A vendor with one model that does not answer."""

    name, label, default_model = "picky", "Picky", "good"

    def __init__(self, error: ProviderError) -> None:
        self.error = error
        self.models: list[str] = []

    def stream(self, call: TextCall, http: Any) -> Iterator[Any]:
        self.models.append(call.model)
        if call.model != "good":
            raise self.error
        yield Text("hi")
        yield Usage(5, 5)


def asks_for(model: str, person: Any) -> Request:
    given = {"model": f"picky/{model}"}
    admission = admit(Intake(medium="api", text=model, person_id=person, new_conversation=True, parameters=given))
    run_jobs()
    return one(select(Request).where(Request.id == admission.request_id))


@pytest.mark.parametrize(
    "error",
    [
        RateLimited("the day's quota of this model", retry_after_s=80_000),
        BadCredentials("no access to this model", status=403),
    ],
    ids=lambda error: error.message,
)
def test_a_model_that_is_refused_closes_no_other(app: Flask, error: ProviderError) -> None:
    vendor = Picky(error)
    install(vendor)
    mallory, alice = add_person(phone="+15005550007"), add_person(phone="+15005550008")
    assert asks_for("secret", mallory).status == RequestStatus.FAILED
    assert asks_for("good", alice).answer == "hi"
    state = resilience.state("picky")
    assert state.paused_until is None
    (rest,) = state.rests
    assert rest.target == "picky/secret"
    assert rest.until <= now() + timedelta(seconds=601)
    made = vendor.models.count("secret")
    assert asks_for("secret", mallory).status == RequestStatus.FAILED
    assert vendor.models.count("secret") == made


@pytest.mark.parametrize("status", [401, None])
def test_a_wrong_key_closes_the_whole_provider(app: Flask, status: int | None) -> None:
    vendor = Picky(BadCredentials("the key is wrong", status=status))
    install(vendor)
    person = add_person(phone="+15005550007")
    assert asks_for("secret", person).status == RequestStatus.FAILED
    assert asks_for("good", person).status == RequestStatus.FAILED
    assert vendor.models == ["secret"]
    assert resilience.state("picky").paused_until is not None


# -- pictures ------------------------------------------------------------------------------------------------------------
class Painter(ImageProvider):
    """Draws what it was given, in the same way."""

    label, default_model = "Painter", "m"

    def __init__(self, name: str, *pieces: Any, preference: int = 0) -> None:
        self.name, self.pieces, self.preference = name, list(pieces), preference
        self.calls: list[ImageCall] = []

    def draw(self, call: ImageCall, http: Any) -> Iterator[Any]:
        self.calls.append(call)
        return played(self.pieces)


def png() -> bytes:
    made = io.BytesIO()
    Image.new("RGB", (8, 8)).save(made, "PNG")
    return made.getvalue()


DRAWN = Drawn(Picture("image/png", png()))
BROKEN = Drawn(Picture("image/png", b"no picture"))


@pytest.fixture
def painting(make_app: Callable[..., Flask]) -> Iterator[Flask]:
    with make_app(retry_wait_s=0.05, image_timeout_s=20).app_context() as context:
        yield context.app


def paint(*painters: Any, run: bool = True, **parameters: Any) -> Request:
    """A picture that these are asked for, as it ended."""

    def register_providers(settings: Any) -> list[Any]:
        return list(painters)

    module = ModuleType("painters")
    module.register_providers = hookimpl(register_providers)  # type: ignore[attr-defined]
    record = current_registry().add(module, f"painters-{new_id().hex}", {})
    assert not record.error, record.error
    person = add_person(phone="+15005550006", plan="business")
    admit(Intake(medium="web", text="a boat", operation=IMAGES, person_id=person, new_conversation=True, parameters=parameters))
    if run:
        run_jobs()
    return requests()[-1]


def charged() -> list[tuple[str, int, int, bool]]:
    """Of each charge the provider, its pictures, its cost and whether it is an estimate."""
    found = rows(select(LedgerEntry).order_by(LedgerEntry.id))
    return [(entry.provider, entry.pictures, entry.cost_microusd, entry.estimated) for entry in found]


def balanced() -> None:
    found = books()
    assert found.ledger == found.requests
    assert found.counters["cost"] == found.ledger[1]
    assert (found.held, found.open_holds) == (0, 0)


def broke(exc: httpx.TransportError) -> Unavailable:
    failure = Unavailable("The connection broke.")
    failure.__cause__ = exc
    return failure


@pytest.mark.parametrize(
    "pieces",
    [
        (DRAWN, Usage()),
        (DRAWN, Unavailable("broke")),
        (DRAWN, KeyError("oops")),
        (DRAWN,),
        (Progress(40), Unavailable("broke")),
    ],
    ids=repr,
)
def test_a_picture_without_a_count_is_charged_as_one(painting: Flask, pieces: tuple[Any, ...]) -> None:
    painter = Painter("p", *pieces)
    paint(painter)
    assert charged() == [("p", 1, CEILING_PICTURE, True)] * len(painter.calls)
    balanced()


def test_a_connection_that_breaks_while_a_picture_is_drawn_is_charged_and_one_that_never_was_is_not(painting: Flask) -> None:
    lost = Painter("lost", broke(httpx.ReadError("reset")), preference=0)
    never = Painter("never", broke(httpx.ConnectError("refused")), preference=1)
    refusing = Painter("refusing", Rejected("no such size"), preference=2)
    last = Painter("last", DRAWN, Usage(pictures=1), preference=3)
    assert paint(lost, never, refusing, last).status == RequestStatus.COMPLETED
    assert charged() == [("lost", 1, CEILING_PICTURE, True), ("last", 1, CEILING_PICTURE, False)]
    balanced()


def test_several_pictures_without_a_count_are_all_charged(painting: Flask) -> None:
    paint(Painter("p", DRAWN, DRAWN, DRAWN, Usage()))
    assert [(pictures, estimated) for _, pictures, _, estimated in charged()] == [(3, True)]
    balanced()


def test_a_picture_that_nobody_waits_for_any_more_is_charged(painting: Flask) -> None:
    request = paint(Painter("p", Progress(1), Progress(2), DRAWN, Usage(pictures=1)), run=False)
    taken = claims.claim(request.id)
    assert taken is not None
    pieces = execute.run(taken)
    assert next(pieces) == Progress(1)
    pieces.close()  # type: ignore[attr-defined]
    assert requests()[0].status == RequestStatus.CANCELLED
    assert charged() == [("p", 1, CEILING_PICTURE, True)]
    balanced()


def test_a_drawing_that_does_not_end_is_ended_in_time_and_charged(make_app: Callable[..., Flask]) -> None:
    class Slow(Painter):
        def draw(self, call: ImageCall, http: Any) -> Iterator[Any]:
            self.calls.append(call)
            ends = time.monotonic() + 30
            while time.monotonic() < ends:
                time.sleep(0.05)
                yield Progress(50)

    with make_app(image_timeout_s=5).app_context():
        began = time.monotonic()
        request = paint(Slow("p"))
        assert time.monotonic() - began < 15
        assert (request.status, request.error_code) == (RequestStatus.FAILED, "provider_timeout")
        assert charged() == [("p", 1, CEILING_PICTURE, True)]
        balanced()


def test_credits_alone_are_a_count(painting: Flask) -> None:
    paint(Painter("p", Progress(10), RefusedByPolicy("filtered", usage=Usage(credits=Decimal(8)))))
    ((_, pictures, cost, estimated),) = charged()
    assert (pictures, estimated) == (0, False)
    assert cost > 0
    balanced()


def test_a_picture_that_cannot_be_stored_is_charged_and_not_drawn_again(painting: Flask) -> None:
    (current_settings().data_dir / "pictures").write_text("in the way")
    first, second = Painter("a", DRAWN, Usage(pictures=1)), Painter("b", DRAWN, Usage(pictures=1), preference=1)
    request = paint(first, second)
    assert (request.status, request.error_code) == (RequestStatus.FAILED, "picture_not_stored")
    assert (len(first.calls), len(second.calls)) == (1, 0)
    assert charged() == [("a", 1, CEILING_PICTURE, True)]
    assert "cannot be stored" in (one(select(ErrorLog)).detail or "")
    assert resilience.state("a").circuits == ()
    balanced()


def test_a_picture_that_cannot_be_read_is_charged_and_drawn_by_the_next_one_only(painting: Flask) -> None:
    first, second = Painter("a", BROKEN, Usage(pictures=1)), Painter("b", DRAWN, Usage(pictures=1), preference=1)
    assert paint(first, second).status == RequestStatus.COMPLETED
    assert charged() == [("a", 1, CEILING_PICTURE, True), ("b", 1, CEILING_PICTURE, False)]
    assert len(first.calls) == 1
    balanced()


def test_a_vendor_whose_picture_cannot_be_read_is_not_paid_for_another(painting: Flask) -> None:
    painter = Painter("p", BROKEN, Usage(pictures=1))
    assert paint(painter).error_code == "provider_malformed"
    assert len(painter.calls) == 1
    assert charged() == [("p", 1, CEILING_PICTURE, True)]
    balanced()


def test_a_picture_to_start_from_that_is_gone_is_told_before_anybody_is_asked(painting: Flask) -> None:
    painter = Painter("p", DRAWN, Usage(pictures=1))
    request = paint(painter, run=False)
    with writing() as connection:
        connection.execute(update(Request).values(parameters={"pictures": ["0" * 64]}))
    run_jobs()
    request = one(select(Request))
    assert (request.status, request.error_code) == (RequestStatus.FAILED, "provider_rejected")
    assert "not there any more" in (one(select(ErrorLog)).detail or "")
    assert painter.calls == []
    assert charged() == []
    balanced()


def test_an_image_provider_may_return_any_iterator(painting: Flask) -> None:
    painter = Painter("p")
    painter.draw = lambda call, http: iter([DRAWN, Usage(pictures=1)])  # type: ignore[method-assign]
    assert paint(painter).status == RequestStatus.COMPLETED
    balanced()


def test_a_picture_is_no_turn_of_the_conversation(painting: Flask) -> None:
    drawn = paint(Painter("p", DRAWN, Usage(pictures=1)))
    vendor = Vendor("v", [Text("It is a boat."), Usage(5, 5)])
    install(vendor)
    admit(Intake(medium="web", text="And now?", person_id=drawn.person_id, conversation_id=drawn.conversation_id))
    run_jobs()
    (call,) = vendor.calls
    assert [turn.text for turn in call.turns][1:] == ["And now?"]
