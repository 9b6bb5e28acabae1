"""`switchhook webhook`."""

from __future__ import annotations

import uuid

import pytest
from sqlalchemy import text

from tests.fakes.receiver import FakeReceiver
from tests.fakes.server import Fault
from tests.integration.cli_support import Operator, operator

__all__ = ["operator"]

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def test_a_webhook_is_added_listed_tested_and_removed(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWITCHHOOK_ALLOW_OUTBOUND", "127.0.0.1")
    operator.ok("org", "create", "Weavers")
    with FakeReceiver() as receiver:
        assert operator.ok("webhook", "list", "Weavers") == "No webhooks.\n"
        refused = operator("webhook", "add", "Weavers", receiver.hook, "--event", "request.done")
        assert (refused.exit_code, "There is no event" in refused.stderr) == (1, True)
        added = operator("webhook", "add", "Weavers", receiver.hook, "--event", "quota.warning", "--description", "Till")
        receiver.secrets.append(added.stdout.strip())
        (shown,) = operator.json("webhook", "list", "Weavers")
        assert (shown["events"], shown["state"]) == (["quota.warning"], "on")
        assert "Till" in operator.ok("webhook", "list", "Weavers")
        operator.ok("org", "create", "Dyers")
        operator.ok("webhook", "add", "Dyers", receiver.hook)
        assert [each["organization"] for each in operator.json("webhook", "list")] == ["Dyers", "Weavers"]
        with operator.database() as connection:
            connection.execute(text("UPDATE webhook_endpoint SET failing_since = created_at WHERE description = 'Till'"))
        first = operator.json("webhook", "list", "--limit", "1")
        assert [(each["organization"], each["state"]) for each in first] == [("Weavers", "failing")]
        assert "answered 204" in operator.ok("webhook", "test", shown["id"])
        receiver.faults.append(Fault(status=500, body=b"oh no"))
        failed = operator("webhook", "test", shown["id"])
        assert (failed.exit_code, "It answered 500. oh no" in failed.stderr) == (1, True)
        assert operator("webhook", "test", str(uuid.uuid4())).exit_code == 1
        assert operator("webhook", "remove", shown["id"], given="n\n").exit_code == 1
        assert "was removed" in operator.ok("webhook", "remove", shown["id"], "--yes")
        assert operator.json("webhook", "list", "Weavers") == []
