"""What an image provider promises, beside what all providers do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any, cast

import httpx

from webapp.plugin import Health, ImageAction, ImageProvider, MalformedAnswer, ModelInfo, Rejected
from webapp.testkit.asking import failure, image_call, run
from webapp.testkit.broken import GARBAGE

_MANY_BYTES = 200 * 1024 * 1024
_READ_AT_MOST = 100 * 1024 * 1024


class Pictures:
    """Pictures while all is well, and answers that are spoilt. Needs `fake`, `provider`, `http` and `fault`."""

    def test_nothing_is_asked_of_the_vendor_before_a_call(self, provider: ImageProvider, fake: Any) -> None:
        assert provider.missing() == ""
        provider.model_info(fake.model)
        assert fake.requests == []

    def test_pictures_come_before_exactly_one_usage(self, provider: ImageProvider, fake: Any, http: httpx.Client) -> None:
        outcome = run(provider, http)
        assert outcome.error is None
        assert outcome.usage is not None
        assert len(outcome.pictures) == outcome.usage.pictures > 0
        assert outcome.progress == sorted(outcome.progress)
        assert outcome.usage.model
        assert fake.reported[-1].pictures == outcome.usage.pictures

    def test_a_cheap_look_and_a_list_of_models_cost_nothing(
        self, provider: ImageProvider, fake: Any, http: httpx.Client
    ) -> None:
        health = provider.check(http)
        assert isinstance(health, Health)
        assert health.ok, health
        assert all(isinstance(info, ModelInfo) and info.id for info in provider.models(http))
        assert fake.reported == []

    def test_a_prompt_of_any_characters_and_any_wish_is_taken(self, provider: ImageProvider, http: httpx.Client) -> None:
        prompt = 'Grüße 世界 👩‍🚀 "quoted"\r\n--boundary\n\x00\ud83d'
        wishes = image_call(prompt, negative_prompt="ü", style="photographic", seed=-1, person_ref="0f3a")
        assert run(provider, http, wishes).error is None
        for width, height in ((1, 1), (4000, 10), (0, -5), (1023, 767)):
            assert run(provider, http, image_call(width=width, height=height, seed=2**70)).error is None

    def test_an_action_of_somebody_elses_is_rejected_without_a_call(
        self, provider: ImageProvider, fake: Any, http: httpx.Client
    ) -> None:
        for token in ("", "x" * 5000, "../../etc\r\nX: y"):
            made = image_call(action=ImageAction("U1", token))
            assert type(failure(provider, http, made)) is Rejected
        assert fake.requests == []

    def test_a_reader_who_leaves_at_once_ends_the_call(self, provider: ImageProvider, http: httpx.Client) -> None:
        with closing(cast("Any", provider.draw(image_call(), http))) as steps:
            next(steps)
        assert run(provider, http).error is None

    def test_garbage_is_malformed(self, provider: ImageProvider, fake: Any, http: httpx.Client, fault: Any) -> None:
        for name, (kind, body) in GARBAGE.items():
            fake.faults.append(fault(status=200, headers={"Content-Type": kind}, body=body))
            error = failure(provider, http)
            assert type(error) is MalformedAnswer, f"{name}: {error!r}"

    def test_an_answer_that_breaks_off_gives_no_picture(
        self, provider: ImageProvider, fake: Any, http: httpx.Client, fault: Any
    ) -> None:
        for position in (1, 20):
            fake.faults.append(fault(cut_after_bytes=position))
            assert failure(provider, http).retryable

    def test_an_endless_answer_is_given_up_before_it_fills_the_memory(
        self, provider: ImageProvider, fake: Any, http: httpx.Client, fault: Any
    ) -> None:
        given = 0

        def endless() -> Iterator[bytes]:
            nonlocal given
            yield b'{"a": "'
            while given < _MANY_BYTES:
                given += 65_536
                yield b"x" * 65_536

        fake.faults.append(fault(status=200, headers={"Content-Type": "application/json"}, body=endless()))
        assert type(failure(provider, http)) is MalformedAnswer
        fake.wait_until(lambda: fake.abandoned, 5)
        assert given < _READ_AT_MOST
