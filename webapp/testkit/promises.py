"""What a text provider promises while all is well."""

from __future__ import annotations

import base64
import json
import threading
from contextlib import closing
from typing import Any, cast

import httpx
import pytest

from webapp.plugin import (
    Capability,
    Finish,
    Health,
    JsonOutput,
    ModelInfo,
    Picture,
    Rejected,
    Role,
    Text,
    TextProvider,
    Turn,
    VariableKind,
)
from webapp.testkit.asking import PIXEL, UNICODE, answer, call, failure, run

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "people": {"type": "integer"}},
    "required": ["city", "people"],
    "additionalProperties": False,
}
A_CITY = json.dumps({"city": "Zürich", "people": 448664}, ensure_ascii=False)


class SelfDescription:
    """What a provider says of itself, without asking anybody. Needs the fixture `provider`."""

    def test_it_says_who_it_is_and_which_variables_it_reads(self, provider: TextProvider) -> None:
        assert provider.name == provider.name.lower()
        assert "/" not in provider.name
        assert provider.label
        assert isinstance(provider.preference, int)
        assert not provider.base_url.endswith("/")
        names = [variable.name for variable in provider.environment]
        assert len(names) == len(set(names))
        for variable in provider.environment:
            assert variable.name.isupper()
            assert variable.meaning.endswith(".")
            assert not (variable.secret and variable.default), "a secret has no default"
            assert variable.secret == variable.name.endswith(("_KEY", "_TOKEN", "_SECRET"))
            if variable.name.endswith("_URL"):
                assert variable.kind is VariableKind.URL
            if variable.name.endswith("_MODEL"):
                assert variable.kind is VariableKind.MODEL

    def test_it_is_ready_when_its_variables_are_set(self, provider: TextProvider) -> None:
        assert provider.missing() == ""

    @pytest.mark.parametrize("model", ["fake-model", "", "no/such:model@v1", "x" * 500, "模型\x00"])
    def test_it_knows_something_or_nothing_of_any_model(self, provider: TextProvider, model: str) -> None:
        info = provider.model_info(model)
        assert isinstance(info, ModelInfo)
        assert info.id == model
        for count in (info.context_tokens, info.output_tokens):
            assert count is None or count > 0
        assert info.capabilities is None or all(isinstance(able, Capability) for able in info.capabilities)


class Answers:
    """What a provider gives while its vendor is well. Needs the fixtures `provider` and `http`."""

    def test_text_pieces_come_first_and_then_exactly_one_usage(self, provider: TextProvider, http: httpx.Client) -> None:
        text, usage = answer(provider, http)
        assert text.strip()
        assert usage.finish is Finish.STOP
        assert usage.model

    def test_the_same_provider_serves_many_threads_at_once(self, provider: TextProvider, http: httpx.Client) -> None:
        expected = answer(provider, http)[0]
        found: list[str] = []
        threads = [threading.Thread(target=lambda: found.append(answer(provider, http)[0])) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert found == [expected] * 6

    def test_a_cheap_look_is_healthy(self, provider: TextProvider, http: httpx.Client) -> None:
        health = provider.check(http)
        assert isinstance(health, Health)
        assert health.ok, health
        assert health.detail

    def test_the_models_it_lists_have_names_that_can_be_used(self, provider: TextProvider, http: httpx.Client) -> None:
        models = provider.models(http)
        assert isinstance(models, list)
        assert all(isinstance(info, ModelInfo) and info.id.isprintable() and info.id for info in models)
        assert len({info.id for info in models}) == len(models)

    def test_a_conversation_of_many_turns_is_answered(self, provider: TextProvider, http: httpx.Client) -> None:
        turns = (Turn(Role.USER, "hi"), Turn(Role.ASSISTANT, "Hello."), Turn(Role.USER, "again\x00 \ud83d 👩‍🚀"))
        assert answer(provider, http, call(turns=turns))[0].strip()


class VendorAnswers(Answers):
    """The same, and what reaches the vendor. Needs the fixtures `fake`, `provider` and `http`."""

    def test_nothing_is_asked_of_the_vendor_before_a_call(self, provider: TextProvider, fake: Any) -> None:
        assert provider.missing() == ""
        provider.model_info(fake.model)
        assert fake.requests == []

    def test_a_cheap_look_and_a_list_of_models_cost_nothing(
        self, provider: TextProvider, fake: Any, http: httpx.Client
    ) -> None:
        provider.check(http)
        provider.models(http)
        assert fake.reported == []
        assert fake.requests

    def test_what_is_said_arrives_whole_in_any_script(self, provider: TextProvider, fake: Any, http: httpx.Client) -> None:
        fake.text = UNICODE
        assert answer(provider, http, call(UNICODE))[0] == UNICODE
        sent = fake.requests[-1].body
        assert "世界" in json.dumps(json.loads(sent), ensure_ascii=False)
        assert b"fake-model" in sent or "fake-model" in fake.requests[-1].target

    def test_pieces_are_handed_on_as_they_come(self, provider: TextProvider, fake: Any, http: httpx.Client) -> None:
        whole = fake.good_stream("one two three four five six seven eight")
        half = whole.index(b"four")
        seen = threading.Event()

        def script() -> Any:
            yield whole[:half]
            assert seen.wait(5), "nothing was handed on before the answer was whole"
            yield whole[half:]

        fake.script = script
        stream = cast("Any", provider.stream(call(), http))
        with closing(stream):
            first = next(stream)
            assert isinstance(first, Text)
            seen.set()
            rest = [piece.text for piece in stream if isinstance(piece, Text)]
        assert first.text + "".join(rest) == "one two three four five six seven eight"

    def test_a_reader_who_leaves_ends_the_call(self, provider: TextProvider, fake: Any, http: httpx.Client) -> None:
        whole = fake.good_stream("one two three four five six seven eight")

        def script() -> Any:
            yield whole[: whole.index(b"four")]
            while not fake.stopping.wait(0.02):
                yield b"\n"

        fake.script = script
        stream = cast("Any", provider.stream(call(), http))
        with closing(stream):
            next(stream)
        fake.wait_until(lambda: fake.abandoned, 5)
        fake.script = None
        assert answer(provider, http)[0] == fake.text

    def test_tokens_are_counted_in_one_convention(self, provider: TextProvider, fake: Any, http: httpx.Client) -> None:
        fake.text, fake.cached_tokens, fake.reasoning_tokens = "one two three", 2, 3
        _, usage = answer(provider, http)
        if not fake.reported:
            assert (usage.input_tokens, usage.output_tokens) == (None, None), "the vendor told no counts"
            return
        told = fake.reported[-1]
        assert (usage.input_tokens, usage.output_tokens) == (told.input_tokens, told.output_tokens)
        assert (usage.cached_tokens, usage.reasoning_tokens) == (told.cached_tokens, told.reasoning_tokens)

    def test_counts_that_are_not_told_are_unknown(self, provider: TextProvider, fake: Any, http: httpx.Client) -> None:
        fake.with_usage = False
        _, usage = answer(provider, http)
        assert (usage.input_tokens, usage.output_tokens, usage.cached_tokens) == (None, None, 0)

    def test_a_whole_answer_is_taken_from_a_server_that_does_not_stream(
        self, provider: TextProvider, fake: Any, http: httpx.Client, fault: Any
    ) -> None:
        document = fake.good_document(UNICODE)
        if document is None:
            pytest.skip("its vendor's format knows no whole answer to a streamed call")
        fake.faults.append(fault(status=200, headers={"Content-Type": "application/json"}, body=b"\n \n" + document))
        assert answer(provider, http)[0] == UNICODE

    def test_a_picture_reaches_the_vendor_or_is_refused_by_name(
        self, provider: TextProvider, fake: Any, http: httpx.Client
    ) -> None:
        seen = Turn(Role.USER, "What is this?", (Picture("image/png", PIXEL),))
        outcome = run(provider, http, call(turns=(seen,)))
        if outcome.error is not None:
            assert isinstance(outcome.error, Rejected), outcome.error
            said = f"{outcome.error.message} {outcome.error.detail}".lower()
            assert "picture" in said or "image" in said or "vision" in said
            assert fake.reported == []
            return
        assert base64.b64encode(PIXEL) in fake.requests[-1].body

    @pytest.mark.parametrize("schema", [SCHEMA, {"type": "object", "properties": {"city": {"type": "string"}}}, None])
    def test_json_is_asked_for_in_the_vendors_own_way(
        self, provider: TextProvider, fake: Any, http: httpx.Client, schema: dict[str, Any] | None
    ) -> None:
        fake.text = A_CITY
        text, _ = answer(provider, http, call(output=JsonOutput("place", schema)))
        assert json.loads(text) == json.loads(A_CITY)
        plain = call()
        asked = fake.requests[-1].body
        answer(provider, http, plain)
        assert asked != fake.requests[-1].body, "the call did not ask for JSON"
        if schema is not None:
            assert b"city" in asked

    def test_an_unsupported_wish_is_no_reason_to_break(self, provider: TextProvider, fake: Any, http: httpx.Client) -> None:
        wishes = call(temperature=0.25, stop=("a", "b", "c", "d", "e", "f"), person_ref="0f3a", max_output_tokens=7)
        assert answer(provider, http, wishes)[0] == fake.text

    def test_an_empty_answer_is_no_answer(self, provider: TextProvider, fake: Any, http: httpx.Client) -> None:
        for text in ("", "  "):
            fake.text = text
            error = failure(provider, http)
            assert error.code == "provider_malformed"
