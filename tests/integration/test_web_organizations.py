"""The pages of organizations: what each role sees and does, invitations, and nothing of others by guessed addresses."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from html import unescape

import pytest
from flask import Flask
from sqlalchemy import insert, select

from tests.fakes.vendor import tiny_png
from tests.integration.web_support import ADMIN, ALICE, BOB, HTMX, PASSWORD, Browser, Site, hidden
from webapp.extensions import now, reading, writing
from webapp.models import Attachment, Invitation, Organization, Person, PersonRole
from webapp.models.columns import new_id
from webapp.pipeline import pictures
from webapp.services import memberships, organizations
from webapp.services.organizations import Actor

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

OPERATOR = Actor.operator("a test")
MANAGER, BOSS, STRANGER = "manager@example.com", "boss@example.com", "stranger@example.com"


class Town(Site):
    """Two organizations: the Weavers have Alice, a manager and an administrator; the Dyers have a stranger."""

    def __init__(self, app: Flask) -> None:
        super().__init__(app)
        with app.app_context():
            self.weavers = organizations.create(OPERATOR, "Weavers").id
            self.dyers = organizations.create(OPERATOR, "Dyers").id
        self.people: dict[str, uuid.UUID] = {}
        for email in (ALICE, MANAGER, BOSS):
            self.put(email, self.weavers)
        self.put(STRANGER, self.dyers, PersonRole.ADMIN)
        self.make(MANAGER, PersonRole.MANAGER)
        self.make(BOSS, PersonRole.ADMIN)

    def put(self, email: str, organization_id: uuid.UUID, role: PersonRole = PersonRole.MEMBER) -> None:
        """Somebody who works there, and is in no other organization but the default one."""
        self.people[email] = self.add(email)
        self.join(email, organization_id, role)
        with self.app.app_context():
            memberships.switch(OPERATOR, self.people[email], organization_id)

    def join(self, email: str, organization_id: uuid.UUID, role: PersonRole = PersonRole.MEMBER) -> None:
        with self.app.app_context():
            memberships.add(OPERATOR, organization_id, email, role)

    def make(self, email: str, role: PersonRole) -> None:
        with self.app.app_context():
            memberships.change_role(OPERATOR, self.weavers, self.people[email], role, PersonRole.MEMBER)

    def works_in(self, email: str) -> uuid.UUID:
        with self.app.app_context(), reading() as connection:
            return connection.execute(select(Person.organization_id).where(Person.email == email)).scalar_one()

    def organization(self, organization_id: uuid.UUID) -> tuple[str, str, bool]:
        with self.app.app_context(), reading() as connection:
            query = select(Organization.name, Organization.time_zone, Organization.active)
            return tuple(connection.execute(query.where(Organization.id == organization_id)).one())  # type: ignore[return-value]

    def at(self, path: str = "", organization_id: uuid.UUID | None = None) -> str:
        return f"/organization/{organization_id or self.weavers}{path}"


@pytest.fixture
def town(make_app: Callable[..., Flask]) -> Town:
    return Town(make_app())


PAGES = {"": "member", "/members": "manager", "/invitations": "manager", "/settings": "admin", "/providers": "admin"}
PAGES["/providers/demo"] = "admin"
LADDER = {"member": ALICE, "manager": MANAGER, "admin": BOSS}


@pytest.mark.parametrize("path", PAGES)
def test_every_page_is_for_its_role_and_not_there_for_others(town: Town, path: str) -> None:
    ranks = list(LADDER)
    for rank, email in LADDER.items():
        found = town.browser(email).get(town.at(path))
        allowed = ranks.index(rank) >= ranks.index(PAGES[path])
        assert found.status_code == (200 if allowed else 403), (rank, path)
    assert town.admin().get(town.at(path)).status_code == 200
    for there in (town.at(path), town.at(path, uuid.uuid4())):
        missing = town.browser(STRANGER).get(there)
        assert missing.status_code == 404
        assert "Weavers" not in missing.text
    assert town.browser().get(town.at(path)).status_code == 303


def test_every_form_is_not_there_for_others(town: Town) -> None:
    stranger, alice = town.browser(STRANGER), town.people[ALICE]
    for path in (
        "/leave",
        "/members",
        f"/members/{alice}/role",
        f"/members/{alice}/remove",
        "/invitations",
        f"/invitations/{uuid.uuid4()}/resend",
        f"/invitations/{uuid.uuid4()}/revoke",
        "/settings",
        "/state",
        "/providers/demo",
    ):
        data = {"role": "admin", "seen": "0", "address": "x@example.com", "name": "Mine", "who": ALICE}
        assert stranger.post(town.at(path), data).status_code == 404, path
    # By ids of others in an organization of one's own.
    for path in (f"/members/{alice}/role", f"/members/{alice}/remove", f"/invitations/{uuid.uuid4()}/revoke"):
        assert stranger.post(town.at(path, town.dyers), {"role": "admin", "seen": "member"}).status_code == 404, path
    assert town.organization(town.weavers) == ("Weavers", "UTC", True)


def test_the_menu_leads_to_the_organization_and_switches_where_there_are_several(town: Town) -> None:
    town.add(BOB)
    alone = town.browser(BOB).get("/settings").text
    assert '<a href="/organization">Organization</a>' in alone
    assert "switcher" not in alone
    alice = town.browser(ALICE)
    page = alice.get("/settings").text
    assert "switcher" in page
    default = next(each for each in re.findall(r'name="organization" value="([^"]+)"', page))
    switched = alice.post("/organization/switch", {"organization": default})
    assert switched.status_code == 303
    assert str(town.works_in(ALICE)) == default
    assert "You are working in" in alice.get("/organization").text
    assert alice.post("/organization/switch", {"organization": str(town.dyers)}).status_code == 404
    assert alice.post("/organization/switch", {"organization": "x"}).status_code == 404


def test_somebody_leaves_an_organization(town: Town) -> None:
    alice = town.browser(ALICE)
    assert "Leave Weavers…" in alice.get("/organization").text
    assert alice.post(town.at("/leave")).status_code == 303
    assert town.works_in(ALICE) != town.weavers
    assert alice.get(town.at()).status_code == 404
    boss = town.browser(BOSS)
    refused = boss.post(town.at("/leave"))
    assert refused.status_code == 409
    assert "last administrator" in refused.text


# -- what is shown -------------------------------------------------------------------------------------------------------
def test_conversations_requests_and_pictures_are_those_of_the_organization_one_works_in(town: Town) -> None:
    alice = town.browser(ALICE)
    alice.ask("What do weavers do?")
    first = town.newest_request()
    town.run_jobs()
    with town.app.app_context():
        stored = pictures.store(tiny_png())
    _attach(town, first, stored.sha256)
    pages = [
        f"/c/{first.conversation_id}",
        f"/requests/{first.id}",
        f"/requests/{first.id}/events",
        f"/pictures/{stored.sha256}",
    ]
    assert [_status(alice, path) for path in pages] == [200] * 4
    with town.app.app_context():
        default = next(m.id for m in organizations.of_person(town.people[ALICE]) if m.id != town.weavers)
    alice.post("/organization/switch", {"organization": str(default)})
    assert [_status(alice, path) for path in pages] == [404] * 4
    for path in (f"/requests/{first.id}/cancel", f"/requests/{first.id}/again"):
        assert alice.post(path).status_code == 404, path
    assert "What do weavers do?" not in alice.get("/").text
    assert "What do weavers do?" not in alice.get("/conversations").text
    kept = alice.ask("And this one, from a page of before?", conversation=str(first.conversation_id))
    assert kept.status_code == 404
    assert "And this one, from a page of before?" in kept.text
    alice.ask("What do others do?")
    second = town.newest_request()
    assert second.organization_id == default
    assert second.conversation_id != first.conversation_id
    alice.post("/organization/switch", {"organization": str(town.weavers)})
    assert "What do weavers do?" in alice.get("/").text
    assert alice.get(f"/c/{second.conversation_id}").status_code == 404
    # Managers see the organization's people, and not what they write.
    assert town.browser(MANAGER).get(f"/c/{first.conversation_id}").status_code == 404


def _status(browser: Browser, path: str) -> int:
    with browser.get(path, headers=HTMX if path.startswith("/requests/") else {}) as response:
        return response.status_code


def _attach(town: Town, request: object, sha256: str) -> None:
    row = {"id": new_id(), "request_id": request.id, "person_id": request.person_id, "sha256": sha256}  # type: ignore[attr-defined]
    row |= {"organization_id": request.organization_id, "kind": "given", "media_type": "image/png"}  # type: ignore[attr-defined]
    with town.app.app_context(), writing() as connection:
        connection.execute(
            insert(Attachment), row | {"size_bytes": 1, "width": 8, "height": 8, "actions": [], "created_at": now()}
        )


# -- members -------------------------------------------------------------------------------------------------------------
def test_members_are_listed_searched_and_paged(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    manager = town.browser(MANAGER)
    page = manager.get(town.at("/members")).text
    for email in (ALICE, MANAGER, BOSS):
        assert email in page
    assert STRANGER not in page
    assert "Save" not in page  # roles are the administrator's
    found = manager.get(town.at("/members?q=alice"), headers=HTMX).text
    assert ALICE in found
    assert BOSS not in found
    assert found.lstrip().startswith('<div id="members">')
    assert "Nobody here is called like “nobody”" in manager.get(town.at("/members?q=nobody")).text
    monkeypatch.setattr(memberships.rows, "__defaults__", (None, "", 2))
    monkeypatch.setattr(memberships, "PAGE", 2)
    first = manager.get(town.at("/members")).text
    more = unescape(re.findall(r'class="older"><a href="([^"]+)"', first)[0])
    rest = manager.get(more, headers=HTMX).text
    assert (ALICE in first, BOSS in first, ALICE in rest, BOSS in rest) == (True, False, False, True)


def test_roles_are_changed_and_people_removed(town: Town) -> None:
    boss, alice = town.browser(BOSS), town.people[ALICE]
    assert boss.post(town.at(f"/members/{alice}/role"), {"role": "manager", "seen": "member"}).status_code == 303
    assert f"{ALICE} is a manager now." in boss.get(town.at("/members")).text
    late = boss.post(town.at(f"/members/{alice}/role"), {"role": "admin", "seen": "member"})
    assert late.status_code == 409
    assert "Somebody else changed this" in late.text
    assert boss.post(town.at(f"/members/{alice}/role"), {"role": "emperor", "seen": "manager"}).status_code == 422
    refused = town.browser(MANAGER).post(town.at(f"/members/{alice}/remove"))
    assert refused.status_code == 403
    assert boss.post(town.at(f"/members/{alice}/remove")).status_code == 303
    assert town.works_in(ALICE) != town.weavers


def test_an_administrator_of_the_installation_adds_people(town: Town) -> None:
    admin = town.admin()
    assert admin.post(town.at("/members"), {"who": STRANGER, "role": "manager"}).status_code == 303
    again = admin.post(town.at("/members"), {"who": STRANGER, "role": "manager"})
    assert again.status_code == 409
    assert "in this organization already" in again.text
    unknown = admin.post(town.at("/members"), {"who": "nobody@example.com", "role": "member"})
    assert unknown.status_code == 422
    assert 'value="nobody@example.com"' in unknown.text
    assert town.browser(BOSS).post(town.at("/members"), {"who": BOB, "role": "member"}).status_code == 403


# -- invitations ---------------------------------------------------------------------------------------------------------
def invite(browser: Browser, town: Town, address: str = "new@example.com", role: str = "member") -> str:
    """The path of the link that the page shows."""
    page = browser.post(town.at("/invitations"), {"address": address, "role": role})
    assert page.status_code == 200, page.text
    found = re.search(r'id="link" readonly value="http://localhost(/join/[^"]+)"', page.text)
    assert found
    return found[1]


def test_an_invitation_from_the_first_form_to_the_first_page(town: Town) -> None:
    link = invite(town.browser(MANAGER), town)
    assert link.rpartition("/")[2] not in town.browser(MANAGER).get(town.at("/invitations")).text
    newcomer = town.browser()
    page = newcomer.get(link)
    assert "Join Weavers" in page.text
    assert 'value="new@example.com" readonly' in page.text
    token = re.search(r'name="csrf-token" content="([^"]+)"', page.text)
    assert token
    given = {"csrf_token": token[1], "name": "Nell", "password": "short"}
    refused = newcomer.client.post(link, data=given)
    assert refused.status_code == 422
    assert "A password needs 10 to 200 characters." in refused.text
    assert 'value="Nell"' in refused.text
    joined = newcomer.client.post(link, data=given | {"password": PASSWORD})
    assert joined.status_code == 303
    assert "Welcome to Weavers." in newcomer.get("/organization").text
    assert newcomer.get("/").status_code == 200
    for status, path in ((410, link), (404, "/join/" + "A" * 43), (404, "/join/x")):
        gone = town.browser().get(path)
        assert gone.status_code == status
        assert "This link leads nowhere" in gone.text
    assert "accepted" in town.browser(MANAGER).get(town.at("/invitations")).text


def test_somebody_who_is_signed_in_joins_by_a_button(town: Town) -> None:
    link = invite(town.browser(BOSS), town, role="manager")
    stranger = town.browser(STRANGER)
    page = stranger.get(link).text
    assert f"Join as {STRANGER}" in page
    assert "Your name" not in page
    assert stranger.post(link).status_code == 303
    assert town.works_in(STRANGER) == town.weavers
    assert stranger.get(town.at("/members")).status_code == 200
    assert stranger.post(link).status_code == 410


def test_whose_address_is_known_signs_in_first_and_comes_back(town: Town) -> None:
    link = invite(town.browser(MANAGER), town, STRANGER)
    page = town.browser().get(link).text
    assert "Your name" not in page
    assert f'href="/login?next={link}"' in page
    signing = town.browser()
    assert signing.post("/login", {"email": STRANGER, "password": PASSWORD, "next": link}).location == link


def test_invitations_are_sent_again_and_revoked(town: Town) -> None:
    manager = town.browser(MANAGER)
    first = invite(manager, town)
    twice = manager.post(town.at("/invitations"), {"address": "new@example.com", "role": "member"})
    assert twice.status_code == 409
    assert "There is an open invitation to this address" in twice.text
    wrong = manager.post(town.at("/invitations"), {"address": "nobody", "role": "member"})
    assert wrong.status_code == 422
    assert 'value="nobody"' in wrong.text
    assert manager.post(town.at("/invitations"), {"address": "b@example.com", "role": "admin"}).status_code == 403
    with town.app.app_context(), reading() as connection:
        invitation = connection.execute(select(Invitation.id)).scalar_one()
    again = manager.post(town.at(f"/invitations/{invitation}/resend"))
    second = re.search(r'value="http://localhost(/join/[^"]+)"', again.text)
    assert second
    assert [town.browser().get(path).status_code for path in (first, second[1])] == [404, 200]
    assert manager.post(town.at(f"/invitations/{invitation}/revoke")).status_code == 303
    assert town.browser().get(second[1]).status_code == 410
    assert manager.post(town.at(f"/invitations/{invitation}/revoke")).status_code == 409


def test_links_are_guessed_only_slowly(town: Town) -> None:
    guesser = town.browser()
    answers = {guesser.post(f"/join/{'A' * 42}{number}").status_code for number in range(10)}
    assert answers == {404}
    assert guesser.post("/join/x").status_code == 429


def test_the_link_is_the_public_address_where_there_is_one(make_app: Callable[..., Flask]) -> None:
    town = Town(make_app(public_url="http://bot.example.com"))
    manager = town.browser(MANAGER)
    page = manager.post(town.at("/invitations"), {"address": "new@example.com", "role": "member"})
    assert 'value="http://bot.example.com/join/' in page.text


# -- settings ------------------------------------------------------------------------------------------------------------
def test_the_settings_are_changed_and_the_second_of_two_is_told(town: Town) -> None:
    boss = town.browser(BOSS)
    seen = hidden(boss.get(town.at("/settings")), "seen")
    given = {"seen": seen, "name": "Spinners", "time_zone": "Asia/Kathmandu", "alert_percents": "50, 90"}
    assert boss.post(town.at("/settings"), given).status_code == 303
    assert town.organization(town.weavers)[:2] == ("Spinners", "Asia/Kathmandu")
    page = boss.get(town.at("/settings")).text
    assert "The settings were saved." in page
    assert 'value="50, 90"' in page
    late = town.admin().post(town.at("/settings"), given | {"name": "Mine"})
    assert late.status_code == 409
    assert "Somebody else changed this" in late.text
    assert 'value="Mine"' in late.text
    wrong = boss.post(town.at("/settings"), given | {"seen": "1", "time_zone": "Mars"})
    assert wrong.status_code == 422
    assert 'id="fault-time_zone"' in wrong.text
    assert boss.post(town.at("/settings"), given | {"seen": "x"}).status_code == 422


def test_an_administrator_of_the_installation_closes_and_opens(town: Town) -> None:
    admin = town.admin()
    assert town.browser(BOSS).post(town.at("/state"), {"to": "closed", "seen": "0"}).status_code == 403
    assert "Close Weavers" not in town.browser(BOSS).get(town.at("/settings")).text
    assert admin.post(town.at("/state"), {"to": "closed", "seen": "0"}).status_code == 303
    assert town.organization(town.weavers)[2] is False
    assert "This organization is closed" in town.browser(ALICE).get("/organization").text
    assert "nobody can join it" in town.browser(MANAGER).get(town.at("/invitations")).text
    assert admin.post(town.at("/state"), {"to": "open", "seen": "0"}).status_code == 409
    assert admin.post(town.at("/state"), {"to": "open", "seen": "1"}).status_code == 303


def test_providers_are_set_in_the_page(town: Town) -> None:
    boss = town.browser(BOSS)
    page = boss.get(town.at("/providers"))
    assert f'href="{town.at("/providers/openai")}"' in page.text
    form = boss.get(town.at("/providers/openai"))
    assert "OPENAI_BASE_URL" not in form.text
    given = {
        "seen": hidden(form, "seen"),
        "enabled": "1",
        "default_model": "gpt-4.1",
        "key-OPENAI_API_KEY": "sk-mine-0123456789abcdef",
    }
    assert boss.post(town.at("/providers/openai"), given).status_code == 303
    saved = boss.get(town.at("/providers/openai"))
    assert "set; ends in cdef" in saved.text
    assert "sk-mine" not in saved.text
    assert "By a key of your own." in boss.get(town.at("/providers")).text
    late = boss.post(town.at("/providers/openai"), given)
    assert late.status_code == 409
    assert "sk-mine" not in late.text
    wrong = boss.post(town.at("/providers/openai"), given | {"seen": hidden(saved, "seen"), "default_model": "two words"})
    assert wrong.status_code == 422
    assert "type them again" in wrong.text
    removing = {"seen": hidden(saved, "seen"), "enabled": "1", "default_model": "gpt-4.1", "remove-OPENAI_API_KEY": "1"}
    asked = boss.post(town.at("/providers/openai"), removing)
    assert "Remove OPENAI_API_KEY?" in asked.text
    assert "set; ends in cdef" in boss.get(town.at("/providers/openai")).text
    assert boss.post(town.at("/providers/openai"), removing | {"confirmed": "OPENAI_API_KEY"}).status_code == 303
    assert "set; ends in" not in boss.get(town.at("/providers/openai")).text
    assert boss.get(town.at("/providers/nobody")).status_code == 404


# -- all of them ---------------------------------------------------------------------------------------------------------
def test_all_organizations_are_listed_found_and_made_by_administrators(town: Town) -> None:
    for email in (ALICE, MANAGER, BOSS):
        assert town.browser(email).get("/dashboard/organizations").status_code == 403
        assert town.browser(email).post("/dashboard/organizations", {"name": "Mine"}).status_code == 403
    admin = town.browser(ADMIN)
    page = admin.get("/dashboard/organizations").text
    assert "Weavers" in page
    assert "Dyers" in page
    found = admin.get("/dashboard/organizations?q=weav", headers=HTMX).text
    assert "Dyers" not in found
    made = admin.post("/dashboard/organizations", {"name": " New   Place ", "time_zone": "Europe/Berlin"})
    assert made.status_code == 303
    assert "New Place was made." in admin.get(made.location).text
    wrong = admin.post("/dashboard/organizations", {"name": "Other", "time_zone": "Nowhere"})
    assert wrong.status_code == 422
    assert 'value="Other"' in wrong.text
    assert admin.get(f"/dashboard/organizations/{town.weavers}").location == town.at()
    assert admin.get(f"/dashboard/organizations/{uuid.uuid4()}", follow_redirects=True).status_code == 404
