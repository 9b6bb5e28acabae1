"""An invitation is worth no more than the right of whoever made it, and its link proves the address that it was sent to."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from flask import Flask
from sqlalchemy import select, update

from tests.integration.web_support import ADMIN, Site
from tests.support import add_person, one
from webapp.contracts.errors import BadInput
from webapp.extensions import writing
from webapp.models import Invitation, Person, PersonRole
from webapp.registry import current_registry
from webapp.services import invitations, memberships, organizations
from webapp.services.organizations import Actor

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

OPERATOR = Actor.operator("a test")
PHONE = "+15005550199"


def link(token: str) -> str:
    return f"https://bot.example.com/join/{token}"


def token_of(made: invitations.Made) -> str:
    return made.link.rpartition("/")[2]


@dataclass
class Place:
    """An organization with two administrators."""

    id: uuid.UUID
    first: uuid.UUID
    second: uuid.UUID


@pytest.fixture
def place(app: Flask) -> Place:
    made = organizations.create(OPERATOR, "Weavers").id
    both = [add_person(email=f"{name}@example.com", full_name=name, organization_id=made) for name in ("first", "second")]
    for each in both:
        memberships.change_role(OPERATOR, made, each, PersonRole.ADMIN, PersonRole.MEMBER)
    return Place(made, *both)


def _removed(place: Place) -> None:
    memberships.remove(Actor.person(place.second), place.id, place.first)


def _demoted(place: Place) -> None:
    second = Actor.person(place.second)
    memberships.change_role(second, place.id, place.first, PersonRole.MANAGER, PersonRole.ADMIN)


def _shut_out(place: Place) -> None:
    with writing() as connection:
        connection.execute(update(Person).where(Person.id == place.first).values(active=False))


@pytest.mark.parametrize("lose", [_removed, _demoted, _shut_out])
def test_an_invitation_of_somebody_who_may_not_invite_any_more_opens_nothing(
    place: Place, lose: Callable[[Place], None]
) -> None:
    made = invitations.create(Actor.person(place.first), place.id, "back@example.com", PersonRole.ADMIN, link)
    token = token_of(made)
    assert invitations.look(token).role is PersonRole.ADMIN
    lose(place)
    (line,) = invitations.rows(Actor.person(place.second), place.id)
    assert line.state == "void"
    with pytest.raises(invitations.Gone, match="may not do so any more"):
        invitations.look(token)
    with pytest.raises(invitations.Gone, match="may not do so any more"):
        invitations.accept_as_new(token, "Back", "a good password")
    with pytest.raises(invitations.Gone, match="may not do so any more"):
        invitations.accept(token, place.first if lose is not _shut_out else place.second)
    assert one(select(Invitation)).accepted_at is None


def test_an_invitation_that_somebody_else_sends_again_is_theirs(place: Place) -> None:
    made = invitations.create(Actor.person(place.first), place.id, "new@example.com", PersonRole.ADMIN, link)
    _removed(place)
    again = invitations.resend(Actor.person(place.second), place.id, made.invitation.id, link)
    assert again.invitation.invited_by == "second"
    assert invitations.look(token_of(again)).invited_by == "second"
    invitations.accept_as_new(token_of(again), "New", "a good password")
    assert one(select(Invitation)).accepted_at is not None


def test_what_a_manager_who_became_a_member_offered_is_void_but_an_administrators_stays(place: Place) -> None:
    first, second = Actor.person(place.first), Actor.person(place.second)
    theirs = invitations.create(first, place.id, "theirs@example.com", PersonRole.MEMBER, link)
    mine = invitations.create(second, place.id, "mine@example.com", PersonRole.ADMIN, link)
    _demoted(place)
    assert invitations.look(token_of(theirs)).address == "theirs@example.com", "managers invite members"
    memberships.change_role(second, place.id, place.first, PersonRole.MEMBER, PersonRole.MANAGER)
    with pytest.raises(invitations.Gone):
        invitations.look(token_of(theirs))
    assert invitations.look(token_of(mine)).address == "mine@example.com"


def test_a_phone_number_is_invited_only_where_a_text_message_carries_the_link(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name, channel in current_registry().channels.items() if channel.medium == "sms"]:
        monkeypatch.delitem(current_registry().channels, name)
    with pytest.raises(BadInput, match="No text message can be sent") as refused:
        invitations.create(Actor.person(place.first), place.id, PHONE, PersonRole.MEMBER, link)
    assert refused.value.field == "address"
    assert invitations.create(OPERATOR, place.id, PHONE, PersonRole.MEMBER, link).sent_by == ""


def test_a_link_that_was_sent_is_shown_to_no_manager(make_app: Callable[..., Flask]) -> None:
    site = Site(make_app())
    site.add("manager@example.com")
    with site.app.app_context():
        here = organizations.create(OPERATOR, "Weavers").id
        member = memberships.add(OPERATOR, here, "manager@example.com", PersonRole.MANAGER)
        memberships.switch(OPERATOR, member.id, here)
    path = f"/organization/{here}/invitations"
    manager = site.browser("manager@example.com")
    page = manager.post(path, {"address": PHONE, "role": "member"}).text
    assert "the link is on its way" in page
    assert "/join/" not in page
    with site.app.app_context():
        invitation = one(select(Invitation.id))
    assert "/join/" not in manager.post(f"{path}/{invitation}/resend").text
    by_mail = manager.post(path, {"address": "new@example.com", "role": "member"}).text
    assert re.search(r'value="http://localhost/join/[^"]+"', by_mail), "nothing carries it: the manager has to"
    house = site.browser(ADMIN)
    assert "/join/" in house.post(f"{path}/{invitation}/resend").text
