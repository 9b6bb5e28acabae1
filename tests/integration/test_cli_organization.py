"""The operator's commands about organizations, and their own keys in a rotation."""

from __future__ import annotations

import json
import os
import time

import pytest
from sqlalchemy import text

from tests.integration.cli_support import Operator, operator
from webapp.vault import FILE_NAME, SETTLE_S

__all__ = ["operator"]

sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@sqlite
def test_an_organization_from_its_making_to_its_end(operator: Operator) -> None:
    made = operator.json("org", "create", "Weavers", "--time-zone", "Asia/Kathmandu")
    assert (made["name"], made["time_zone"], made["active"]) == ("Weavers", "Asia/Kathmandu", True)
    assert [each["name"] for each in operator.json("org", "list", "--search", "weav")] == ["Weavers"]
    assert "is called Spinners now" in operator.ok("org", "rename", "weavers", "Spinners")
    assert "Asia/Kathmandu" in operator.ok("org", "show", made["id"])
    operator.ok("org", "deactivate", "Spinners")
    assert "inactive" in operator.ok("org", "list")
    again = operator("org", "deactivate", "Spinners")
    assert again.exit_code == 1
    assert "inactive already" in again.stderr
    operator.ok("org", "activate", "Spinners")
    assert operator.json("org", "show", "Spinners")["active"]


@sqlite
def test_people_are_added_promoted_switched_and_removed(operator: Operator) -> None:
    operator.ok("org", "create", "Weavers")
    operator.ok("person", "create", "--email", "ada@example.com", "--name", "Ada")
    assert "Ada is in Weavers now, as manager." in operator.ok("org", "add", "Weavers", "ada@example.com", "--role", "manager")
    assert "Ada is admin in Weavers now (so far: manager)." in operator.ok("org", "role", "Weavers", "ada@example.com", "admin")
    [found] = operator.json("org", "members", "Weavers", "--search", "ada")
    assert (found["role"], found["here"], found["email"]) == ("admin", False, "ada@example.com")
    operator.ok("org", "switch", "ada@example.com", "Weavers")
    assert "yes" in operator.ok("org", "members", "Weavers")
    last = operator("org", "remove", "Weavers", "ada@example.com")
    assert last.exit_code == 1
    assert "last administrator" in last.stderr
    operator.ok("org", "add", "Weavers", "admin@example.com", "--role", "admin")
    operator.ok("org", "remove", "Weavers", "ada@example.com")
    assert "admin@example.com" in operator.ok("org", "members", "Weavers")
    actions = [row[0] for row in operator.rows("SELECT action FROM audit_entry WHERE organization_id IS NOT NULL ORDER BY id")]
    assert actions[:4] == ["organization.create", "member.add", "member.role", "member.switch"]
    assert actions[-1] == "member.remove"


@sqlite
def test_invitations_are_printed_sent_again_listed_and_revoked(operator: Operator) -> None:
    operator.ok("org", "create", "Weavers")
    first = operator.ok("org", "invite", "Weavers", "new@example.com", "--role", "admin").strip()
    assert first.startswith("http://127.0.0.1:8000/join/")
    twice = operator("org", "invite", "Weavers", "new@example.com")
    assert twice.exit_code == 1
    assert "open invitation" in twice.stderr
    again = operator.json("org", "invite", "Weavers", "new@example.com", "--resend")
    assert again["link"] != first
    assert again["role"] == "admin"
    [listed] = operator.json("org", "invitations", "Weavers")
    assert (listed["address"], listed["state"], listed["invited_by"]) == ("new@example.com", "open", "")
    assert "new@example.com" in operator.ok("org", "invitations", "Weavers")
    operator.ok("org", "revoke", "Weavers", "NEW@example.com")
    assert operator.json("org", "invitations", "Weavers")[0]["state"] == "revoked"
    nobody = operator("org", "revoke", "Weavers", "nobody@example.com")
    assert nobody.exit_code == 1
    assert "Nobody was invited as nobody@example.com" in nobody.stderr


@sqlite
def test_faults_say_what_to_do(operator: Operator) -> None:
    for arguments, words in (
        (("show", "Nobody"), "org list` shows"),
        (("create", "X", "--time-zone", "Mars"), "There is no such time zone"),
        (("create", " "), "1 to 120 visible characters"),
        (("deactivate", "Default"), "There is no organization"),
    ):
        result = operator("org", *arguments)
        assert result.exit_code == 1
        assert words in result.stderr
    for name in ("Twins", "Others"):
        operator.ok("org", "create", name)
    # As an installation may have them that is older than the rule that names are unique.
    with operator.database() as connection:
        connection.execute(text("UPDATE organization SET name = 'Twins' WHERE name = 'Others'"))
    twins = operator("org", "show", "twins")
    assert "Several organizations are called 'twins': give the id." in twins.stderr


def test_a_rotation_of_keys_seals_the_organizations_own_anew(operator: Operator) -> None:
    from webapp.cli import context
    from webapp.registry import current_registry
    from webapp.routing import own_keys, route, vendors
    from webapp.routing.route import Ask
    from webapp.services import organization_providers, organizations
    from webapp.services.organizations import Actor

    secret = "sk-own-0123456789abcdef"
    with context.application():
        actor = Actor.operator("a test")
        weavers = organizations.create(actor, "Weavers").id
        organization_providers.change(
            actor, weavers, "openai", "", organization_providers.Change(keys={"OPENAI_API_KEY": secret})
        )
    operator.ok("keys", "rotate", "--yes")
    [(values,)] = operator.rows('SELECT "values" FROM organization_provider')
    before = json.loads(values) if isinstance(values, str) else values
    said = operator.json("keys", "rotate", "--yes")
    assert said["sealed_anew"] == 1
    then = time.time() - SETTLE_S - 1
    os.utime(operator.folder / FILE_NAME, (then, then))
    operator.ok("keys", "prune", "--yes")
    [(values,)] = operator.rows('SELECT "values" FROM organization_provider')
    after = json.loads(values) if isinstance(values, str) else values
    assert after["OPENAI_API_KEY"]["sealed"] != before["OPENAI_API_KEY"]["sealed"]
    with context.application():
        vendors.current()
        assert own_keys.shelf(weavers).keys["openai"].forms == (secret,)
        path = route.plan(Ask(organization_id=weavers))
        assert next(target.account for target in path.targets) == own_keys.gate("openai", weavers)
        assert current_registry().providers["openai"].missing()
