"""`switchhook route` and the rules behind it: their order, what is refused, and why a request goes where it goes."""

from __future__ import annotations

import threading
import uuid
from typing import Any

import pytest
from flask import Flask

from tests.integration.cli_support import Operator, operator
from webapp.contracts.errors import BadInput, NotFound
from webapp.registry import current_registry
from webapp.routing import resilience, route, vendors
from webapp.routing.resilience import Pace, Verdict
from webapp.services import providers, routes
from webapp.services.providers import Change
from webapp.services.routes import Ask, RuleValues

__all__ = ["operator"]

ADMIN = "command line (tests)"


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Vendors that are set up, at addresses where nobody answers: no route needs to call them."""
    for name in ("OPENAI", "ANTHROPIC", "MISTRAL"):
        monkeypatch.setenv(f"{name}_API_KEY", "a-key")
        monkeypatch.setenv(f"{name}_BASE_URL", "http://127.0.0.1:9")


def added(operator: Operator, name: str, *arguments: str) -> Any:
    return operator.json("route", "add", "--name", name, *arguments)


def order(operator: Operator) -> list[str]:
    return [rule["name"] for rule in operator.json("route", "list")]


# -- from the command line -----------------------------------------------------------------------------------------------
def test_without_rules_it_says_what_decides(operator: Operator) -> None:
    assert "providers that are ready" in operator.ok("route", "list")
    assert operator.json("route", "list") == []


def test_a_rule_is_added_decides_and_is_removed(operator: Operator, keys: None) -> None:
    del keys
    rule = added(operator, "code", "anthropic/claude-x", "openai", "--category", "coding", "--max-cost", "0.5")
    assert (rule["position"], rule["category"], rule["max_cost_microusd"]) == (1, "coding", 500_000)
    found = operator.json("route", "explain", "--category", "coding", "--tokens", "100", "--output-tokens", "100")
    assert found["by"] == "the rule “code”"
    assert [target["name"] for target in found["targets"]] == ["anthropic/claude-x", "openai/gpt-4.1-mini"]
    assert found["targets"][1]["most_microusd"] > 0
    assert found["targets"][1]["price_known"]
    assert not found["targets"][1]["circuit_open"]
    other = operator.json("route", "explain", "--category", "design")
    assert other["by"] == "the providers that are ready"
    said = operator.ok("route", "explain", "--category", "coding")
    assert "Decided by the rule “code”" in said
    assert "is called" in said
    listed = operator.ok("route", "list")
    assert "anthropic/claude-x, openai" in listed
    assert "$0.50" in listed
    assert operator("route", "remove", rule["id"], given="n\n").exit_code == 1
    assert order(operator) == ["code"]
    operator.ok("route", "remove", rule["id"], "--yes")
    assert order(operator) == []
    actions = [row[0] for row in operator.rows("SELECT action FROM audit_entry ORDER BY id")]
    assert actions == ["route.add", "route.remove"]


def test_a_rule_is_named_by_its_number_or_by_its_id_or_the_beginning_of_that(operator: Operator) -> None:
    first, second = (added(operator, name, "demo", "--plan", name) for name in ("free", "starter"))
    assert operator.json("route", "move", "2", "--up")["name"] == "starter"
    assert operator.json("route", "change", "2.", "--name", "Code")["id"] == first["id"]
    assert operator.json("route", "change", second["id"][:30], "--name", "Words")["id"] == second["id"]
    assert operator.json("route", "change", second["id"].replace("-", "").upper(), "--name", "Words")["id"] == second["id"]
    unclear = operator("route", "move", first["id"][:4], "--up")
    assert unclear.exit_code == 1
    assert "2 rules have an id that begins with" in unclear.stderr
    for wrong in ("0", "3", "²", "ffff"):
        assert "no rule" in operator("route", "remove", wrong, "--yes").stderr
    asked = operator("route", "remove", "2", given="y\n")
    assert "Remove the rule “Code”?" in asked.stderr
    assert order(operator) == ["Words"]


def test_rules_change_places_and_keep_a_tidy_order(operator: Operator) -> None:
    first, second, third = (added(operator, name, "demo", "--plan", name) for name in ("free", "starter", "business"))
    assert [rule["position"] for rule in (first, second, third)] == [1, 2, 3]
    assert operator.json("route", "move", third["id"], "--up")["position"] == 2
    assert order(operator) == ["free", "business", "starter"]
    operator.ok("route", "move", first["id"], "--up")
    operator.ok("route", "move", second["id"], "--down")
    assert order(operator) == ["free", "business", "starter"]
    operator.ok("route", "move", first["id"], "--down")
    assert order(operator) == ["business", "free", "starter"]
    operator.ok("route", "remove", first["id"], "--yes")
    assert [row[0] for row in operator.rows("SELECT position FROM route_rule ORDER BY position")] == [1, 2]


def test_a_change_leaves_alone_what_is_not_named(operator: Operator, keys: None) -> None:
    del keys
    rule = added(operator, "code", "openai", "--category", "coding", "--plan", "free", "--max-cost", "1")
    changed = operator.json("route", "change", rule["id"], "--name", "programs", "--plan", "any", "--max-cost", "any")
    assert (changed["name"], changed["plan"], changed["category"], changed["max_cost_microusd"]) == (
        "programs",
        None,
        "coding",
        None,
    )
    changed = operator.json("route", "change", rule["id"], "--target", "mistral", "--target", "openai/gpt-5", "--disable")
    assert (changed["targets"], changed["enabled"]) == (["mistral", "openai/gpt-5"], False)
    assert operator.json("route", "explain", "--category", "coding")["by"] == "the providers that are ready"
    assert "(off)" in operator.ok("route", "list")
    assert operator("route", "change", rule["id"]).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("add", "--name", "x", "nobody/m"), 1, "no text provider 'nobody'"),
        (("add", "--name", "x", "--operation", "image.generate", "anthropic"), 1, "no image provider 'anthropic'"),
        (("add", "--name", " ", "demo"), 1, "a name"),
        (("add", "--name", "x"), 2, "TARGET"),
        (("add", "--name", "x", "demo/"), 1, "model's name"),
        (("add", "--name", "x", "demo/two words"), 1, "model's name"),
        (("add", "--name", "x", "--plan", "gold", "demo"), 1, "free, starter"),
        (("add", "--name", "x", "--organization", str(uuid.uuid4()), "demo"), 1, "no organization"),
        (("add", "--name", "x", "--category", "Code!", "demo"), 1, "lower-case"),
        (("add", "--name", "x", "--max-cost", "-1", "demo"), 2, "dollars above 0"),
        (("add", "--name", "x", "--max-cost", "NaN", "demo"), 2, "dollars above 0"),
        (("move", str(uuid.uuid4()), "--up"), 1, "no rule"),
        (("remove", str(uuid.uuid4()), "--yes"), 1, "no rule"),
        (("change", str(uuid.uuid4()), "--name", "y"), 1, "no rule"),
        (("change", "first", "--name", "y"), 1, "no rule first"),
    ],
)
def test_what_cannot_be_is_explained(operator: Operator, arguments: tuple[str, ...], code: int, said: str) -> None:
    result = operator("route", *arguments)
    assert result.exit_code == code, result.output
    assert said in result.stderr
    assert operator.rows("SELECT * FROM route_rule") == []


def test_an_explanation_without_a_model_ends_with_one_and_says_why(operator: Operator) -> None:
    result = operator("route", "explain", "--operation", "image.generate")
    assert result.exit_code == 1
    assert "No model can serve this" in result.stdout
    result = operator("route", "explain", "--model", "openai/gpt-5", "--needs", "vision")
    assert result.exit_code == 1
    assert "OPENAI_API_KEY is not set" in result.stdout


# -- what keeps a rule from working --------------------------------------------------------------------------------------
def test_faults_name_what_does_not_work(keys: None, app: Flask) -> None:
    del keys, app
    targets = ("openai", "mistral", "deepseek", "compatible/m", "anthropic/a-model-without-a-price")
    routes.add(RuleValues("everything", targets), ADMIN)
    providers.change("mistral", Change(enabled=False), ADMIN)
    routes.add(RuleValues("never", ("demo",), category="coding"), ADMIN)
    routes.add(RuleValues("pictures", ("openai",), operation="image.generate"), ADMIN)
    first, second, third = routes.rules()
    assert len(first.faults) == 4
    assert any(fault.startswith("mistral: ") and "switched off" in fault for fault in first.faults)
    assert any("DEEPSEEK_API_KEY" in fault for fault in first.faults)
    assert any("price is not known" in fault for fault in first.faults)
    assert second.faults == ("it is never used: the rule “everything” before it takes all of its requests",)
    assert third.faults == (), "a rule for everything is not about pictures"
    routes.move(second.id, True, ADMIN)
    assert routes.rules()[0].faults == ()


def test_a_target_whose_plugin_is_gone_stays_until_it_is_changed(app: Flask) -> None:
    del app
    rule = routes.add(RuleValues("all", ("demo", "mistral/m")), ADMIN)
    registry = current_registry()
    registry.providers = {name: each for name, each in registry.providers.items() if name != "mistral"}
    assert any("no text provider 'mistral'" in fault for fault in routes.rules()[0].faults)
    values = RuleValues("renamed", rule.targets, enabled=False)
    with pytest.raises(BadInput, match="no text provider"):
        routes.add(values, ADMIN)
    assert routes.change(rule.id, values, ADMIN).name == "renamed"


def test_an_explanation_tells_of_open_circuits_pauses_and_costs(keys: None, app: Flask) -> None:
    del keys
    routes.add(RuleValues("two", ("mistral/m", "openai/gpt-4.1-mini"), max_cost_microusd=10**9), ADMIN)
    for _ in range(app.extensions["switchhook.settings"].breaker_failures):
        granted = resilience.enter("mistral", "mistral/m", Pace(), tokens=1, hold_s=5)
        assert isinstance(granted, resilience.Grant)
        resilience.leave(granted, Verdict.BAD)
    resilience.pause("openai", 60, "it asks for fewer calls")
    small, large = (routes.explain(Ask(input_tokens=n, output_tokens=n)) for n in (10, 10_000))
    mistral, openai = small.targets
    assert (mistral.circuit_open, openai.circuit_open) == (True, False)
    assert (mistral.paused_until is None, openai.paused_until is None) == (True, False)
    assert openai.pause_reason == "it asks for fewer calls"
    assert 0 < openai.most_microusd < large.targets[1].most_microusd
    assert (mistral.price_known, openai.price_known) == (False, True)
    assert small.route.by == small.by == "the rule “two”"


def test_a_new_rule_counts_at_once_here_and_soon_elsewhere(app: Flask, make_app: Any) -> None:
    del app
    other = make_app()
    with other.app_context():
        assert vendors.current().rules == ()
    rule = routes.add(RuleValues("all", ("demo",)), ADMIN)
    assert route.plan(Ask()).by == "the rule “all”"
    with other.app_context():
        vendors.look_again()
        assert route.plan(Ask()).by == "the rule “all”"
    routes.remove(rule.id, ADMIN)
    assert route.plan(Ask()).by != "the rule “all”"
    with pytest.raises(NotFound):
        routes.remove(rule.id, ADMIN)


def test_rules_that_are_moved_at_the_same_time_keep_one_order(app: Flask) -> None:
    made = [routes.add(RuleValues(f"rule {n}", ("demo",), category=f"c{n}"), ADMIN) for n in range(4)]
    failed: list[BaseException] = []

    def work(rule_id: uuid.UUID, up: bool) -> None:
        try:
            with app.app_context():
                for _ in range(3):
                    routes.move(rule_id, up, ADMIN)
        except BaseException as exc:
            failed.append(exc)

    threads = [threading.Thread(target=work, args=(rule.id, n % 2 == 0)) for n, rule in enumerate(made)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failed == []
    found = routes.rules()
    assert [rule.position for rule in found] == [1, 2, 3, 4]
    assert {rule.id for rule in found} == {rule.id for rule in made}
