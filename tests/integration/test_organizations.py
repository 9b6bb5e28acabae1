"""Organizations: roles, members, switching, and what of a change is refused."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import delete, select

from tests.support import add_person, one, rows, run_jobs, sent, text
from webapp.contracts.errors import BadInput, Conflict, NotAllowed, NotFound
from webapp.extensions import now, writing, writing_session
from webapp.models import ApiToken, AuditEntry, Identity, Invitation, Membership, Organization, Person, PersonRole
from webapp.services import accounts, invitations, memberships, organization_providers, organizations, people
from webapp.services.organizations import Actor, Change

MEMBER, MANAGER, ADMIN = PersonRole.MEMBER, PersonRole.MANAGER, PersonRole.ADMIN
OPERATOR = Actor.operator("a test")
sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


_numbers = itertools.count(1)


def link(token: str) -> str:
    return f"https://bot.example.com/join/{token}"


@dataclass
class Cast:
    """An organization with somebody of every kind, and another one."""

    organization_id: uuid.UUID
    other_id: uuid.UUID
    people: dict[str, uuid.UUID] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Actor:
        return Actor.person(self.people[name])


def person(name: str, organization_id: uuid.UUID | None = None, role: PersonRole = MEMBER) -> uuid.UUID:
    return add_person(email=f"{name}@example.com", full_name=name.title(), organization_id=organization_id, role=role)


def somebody(organization_id: uuid.UUID, role: PersonRole = MEMBER) -> uuid.UUID:
    return person(f"somebody{next(_numbers)}", organization_id, role)


@pytest.fixture
def cast(app: Flask) -> Cast:
    here = organizations.create(OPERATOR, "Weavers")
    other = organizations.create(OPERATOR, "Dyers")
    found = Cast(here.id, other.id)
    found.people["outsider"] = person("outsider", other.id)
    found.people["member"] = person("member", here.id)
    found.people["manager"] = person("manager", here.id, MANAGER)
    found.people["administrator"] = person("administrator", here.id)
    found.people["second"] = person("second", here.id)
    for name in ("administrator", "second"):
        memberships.change_role(OPERATOR, here.id, found.people[name], ADMIN, MEMBER)
    found.people["house"] = person("house", role=ADMIN)
    return found


def role_of(person_id: uuid.UUID, organization_id: uuid.UUID) -> str | None:
    query = select(Membership.role).where(Membership.person_id == person_id, Membership.organization_id == organization_id)
    return next(iter(rows(query)), None)


def works_in(person_id: uuid.UUID) -> uuid.UUID:
    return one(select(Person.organization_id).where(Person.id == person_id))


def organization(organization_id: uuid.UUID) -> Organization:
    return one(select(Organization).where(Organization.id == organization_id))


# -- who may do what -----------------------------------------------------------------------------------------------------
def _invite(cast: Cast, actor: Actor, role: PersonRole) -> Any:
    return invitations.create(actor, cast.organization_id, "new@example.com", role, link)


def _invited(cast: Cast) -> uuid.UUID:
    return invitations.create(
        OPERATOR, cast.organization_id, f"waiting{next(_numbers)}@example.com", MEMBER, link
    ).invitation.id


def _change(cast: Cast, actor: Actor, **values: str) -> Any:
    return organizations.change(actor, cast.organization_id, organization(cast.organization_id).version, Change(**values))


def _close(cast: Cast, actor: Actor) -> Any:
    return organizations.set_active(actor, cast.organization_id, False, organization(cast.organization_id).version)


ACTS: dict[str, tuple[Callable[[Cast, Actor], Any], str]] = {
    "sees the organization": (lambda c, a: organizations.place(a, c.organization_id), "member"),
    "lists the members": (lambda c, a: memberships.rows(a, c.organization_id), "manager"),
    "looks at a member": (lambda c, a: memberships.show(a, c.organization_id, c.people["member"]), "manager"),
    "lists the invitations": (lambda c, a: invitations.rows(a, c.organization_id), "manager"),
    "invites a member": (lambda c, a: _invite(c, a, MEMBER), "manager"),
    "sends an invitation again": (lambda c, a: invitations.resend(a, c.organization_id, _invited(c), link), "manager"),
    "revokes an invitation": (lambda c, a: invitations.revoke(a, c.organization_id, _invited(c)), "manager"),
    "removes a member": (lambda c, a: memberships.remove(a, c.organization_id, somebody(c.organization_id)), "manager"),
    "invites a manager": (lambda c, a: _invite(c, a, MANAGER), "administrator"),
    "invites an administrator": (lambda c, a: _invite(c, a, ADMIN), "administrator"),
    "removes a manager": (
        lambda c, a: memberships.remove(a, c.organization_id, somebody(c.organization_id, MANAGER)),
        "administrator",
    ),
    "removes an administrator": (lambda c, a: memberships.remove(a, c.organization_id, c.people["second"]), "administrator"),
    "changes a role": (
        lambda c, a: memberships.change_role(a, c.organization_id, somebody(c.organization_id), MANAGER, MEMBER),
        "administrator",
    ),
    "renames it": (lambda c, a: _change(c, a, name="Spinners"), "administrator"),
    "changes the time zone": (lambda c, a: _change(c, a, time_zone="Asia/Kathmandu"), "administrator"),
    "changes the alerts": (lambda c, a: _change(c, a, alert_percents="50, 90"), "administrator"),
    "sees the providers": (lambda c, a: organization_providers.overview(a, c.organization_id), "administrator"),
    "looks at a provider": (lambda c, a: organization_providers.show(a, c.organization_id, "demo"), "administrator"),
    "sets a provider": (
        lambda c, a: organization_providers.change(
            a, c.organization_id, "demo", "", organization_providers.Change(enabled=False)
        ),
        "administrator",
    ),
    "adds somebody unasked": (lambda c, a: memberships.add(a, c.organization_id, "outsider@example.com"), "house"),
    "closes it": (_close, "house"),
    "makes one": (lambda c, a: organizations.create(a, "Tailors"), "house"),
    "lists all": (lambda c, a: organizations.rows(a), "house"),
}
LADDER = ("outsider", "member", "manager", "administrator", "house")
HOUSE_ONLY = ("closes it", "makes one", "lists all")


@sqlite
@pytest.mark.parametrize("act", ACTS)
def test_every_act_is_for_its_role_and_those_above(cast: Cast, act: str) -> None:
    do, least = ACTS[act]
    before = len(rows(select(AuditEntry)))
    for who in LADDER[: LADDER.index(least)]:
        with pytest.raises(NotAllowed if who != "outsider" or act in HOUSE_ONLY else NotFound):
            do(cast, cast[who])
    # Nothing was done, but for what some acts need to be tried at all.
    told = {entry.actor for entry in rows(select(AuditEntry))[before:]}
    assert not told & {cast[who].name for who in LADDER}
    do(cast, cast[least])


@sqlite
@pytest.mark.parametrize("act", [act for act, (_, least) in ACTS.items() if least != "house"])
def test_an_administrator_of_the_installation_and_the_operator_may_do_everything(cast: Cast, act: str) -> None:
    ACTS[act][0](cast, cast["house"])


@sqlite
def test_the_operator_may_do_what_administrators_of_the_installation_may(cast: Cast) -> None:
    memberships.add(OPERATOR, cast.organization_id, "outsider@example.com", MANAGER)
    assert role_of(cast.people["outsider"], cast.organization_id) == MANAGER


@sqlite
def test_an_organization_that_is_not_there_looks_like_one_of_others(cast: Cast) -> None:
    for organization_id in (cast.organization_id, uuid.uuid4()):
        with pytest.raises(NotFound, match="There is no such organization"):
            organizations.place(cast["outsider"], organization_id)
    with pytest.raises(NotFound):
        organizations.place(cast["house"], uuid.uuid4())


def test_the_role_of_somebody_without_a_membership_is_member_where_they_work(cast: Cast) -> None:
    late = person("late", cast.organization_id)
    with writing() as connection:
        connection.execute(delete(Membership).where(Membership.person_id == late))
    found = one(select(Person).where(Person.id == late))
    assert organizations.require(found, cast.organization_id) is MEMBER
    with pytest.raises(NotFound):
        organizations.require(found, cast.other_id)
    with pytest.raises(NotAllowed):
        organizations.require(found, cast.organization_id, MANAGER)
    assert late in [member.id for member in memberships.rows(cast["manager"], cast.organization_id)]
    assert [(mine.id, mine.role, mine.here) for mine in organizations.of_person(late)] == [(cast.organization_id, MEMBER, True)]
    memberships.change_role(cast["administrator"], cast.organization_id, late, MANAGER, MEMBER)
    assert role_of(late, cast.organization_id) == MANAGER


@sqlite
def test_whoever_is_inactive_may_do_nothing(cast: Cast) -> None:
    accounts.set_active("administrator@example.com", False, "a test")
    with pytest.raises(NotFound):
        memberships.rows(cast["administrator"], cast.organization_id)
    accounts.set_active("house@example.com", False, "a test")
    with pytest.raises(NotAllowed):
        organizations.rows(cast["house"])


# -- people --------------------------------------------------------------------------------------------------------------
def test_everybody_who_is_made_has_a_membership(app: Flask) -> None:
    default = one(select(Organization.id))
    text("hello")
    run_jobs()
    texter = one(select(Identity.person_id).where(Identity.address == "+15005550006"))
    boss = person("boss", role=MANAGER)
    chief = person("chief", role=ADMIN)
    assert [role_of(each, default) for each in (texter, boss, chief)] == [MEMBER, MANAGER, ADMIN]
    assert rows(select(Person.role).where(Person.id.in_((boss, chief))).order_by(Person.id)) == [MEMBER, ADMIN]


def test_members_come_in_pages_and_are_found_by_name_mail_and_phone(cast: Cast) -> None:
    here = cast.organization_id
    ada = add_person(email="a@b.example", phone="+15005550123", full_name="Ada 100% Lovelace", organization_id=here)
    expected = sorted([*(cast.people[name] for name in ("member", "manager", "administrator", "second")), ada])
    seen: list[uuid.UUID] = []
    while page := memberships.rows(cast["manager"], here, seen[-1] if seen else None, size=2):
        seen += [member.id for member in page]
    assert seen == expected
    for search in ("lovelace", "100%", "A@B.", "5550123", "+1 500 555-0123"):
        assert [member.id for member in memberships.rows(cast["manager"], here, search=search)] == [ada]
    assert memberships.rows(cast["manager"], here, search="_") == []
    assert memberships.rows(cast["manager"], here, search="outsider") == []


def test_removing_somebody_moves_them_to_another_organization_of_theirs(cast: Cast) -> None:
    both = person("both", cast.organization_id)
    memberships.add(OPERATOR, cast.other_id, str(both))
    with writing_session() as session:
        for place in (cast.organization_id, None):
            token = {"name": "t", "prefix": "sh_", "digest": str(place), "scopes": ["chat"]}
            session.add(ApiToken(person_id=both, organization_id=place, **token))
    memberships.remove(cast["manager"], cast.organization_id, both)
    assert works_in(both) == cast.other_id
    assert role_of(both, cast.organization_id) is None
    ended = {token.organization_id: token.revoked_at is not None for token in rows(select(ApiToken))}
    assert ended == {cast.organization_id: True, None: False}
    entry = rows(select(AuditEntry).where(AuditEntry.action == "member.remove"))[0]
    assert (entry.actor, entry.organization_id) == (cast["manager"].name, cast.organization_id)


@sqlite
def test_whoever_has_no_other_organization_goes_to_the_default_one(cast: Cast) -> None:
    member = cast.people["member"]
    memberships.remove(cast["manager"], cast.organization_id, member)
    default = rows(select(Organization.id).order_by(Organization.id))[0]
    assert works_in(member) == default
    assert role_of(member, default) == MEMBER
    with pytest.raises(Conflict, match="default organization"):
        memberships.remove(OPERATOR, default, member)
    with pytest.raises(NotFound, match="no such member"):
        memberships.remove(cast["manager"], cast.organization_id, member)


@sqlite
def test_a_closed_organization_takes_nobody_in(cast: Cast) -> None:
    memberships.add(OPERATOR, cast.other_id, "member@example.com")
    organizations.set_active(OPERATOR, cast.other_id, False, 0)
    with pytest.raises(Conflict, match="Dyers is closed"):
        memberships.switch(cast["member"], cast.people["member"], cast.other_id)
    with pytest.raises(Conflict, match="closed"):
        invitations.create(OPERATOR, cast.other_id, "x@example.com", MEMBER, link)
    memberships.remove(cast["manager"], cast.organization_id, cast.people["member"])
    assert works_in(cast.people["member"]) not in (cast.organization_id, cast.other_id)


@sqlite
def test_the_default_organization_stays_open(cast: Cast) -> None:
    default = rows(select(Organization).order_by(Organization.id))[0]
    with pytest.raises(Conflict, match="default organization"):
        organizations.set_active(OPERATOR, default.id, False, default.version)


@sqlite
def test_people_switch_between_their_organizations_and_into_no_other(cast: Cast) -> None:
    member = cast.people["member"]
    with pytest.raises(NotFound):
        memberships.switch(cast["member"], member, cast.other_id)
    memberships.add(OPERATOR, cast.other_id, "member@example.com", MANAGER)
    assert works_in(member) == cast.organization_id
    memberships.switch(cast["member"], member, cast.other_id)
    assert works_in(member) == cast.other_id
    found = [(mine.name, mine.role, mine.here) for mine in organizations.of_person(member)]
    assert found == [("Dyers", MANAGER, True), ("Weavers", MEMBER, False)]
    with pytest.raises(NotFound):
        memberships.switch(cast["manager"], member, cast.other_id)  # of somebody else, elsewhere
    with pytest.raises(NotAllowed):
        memberships.switch(cast["administrator"], member, cast.organization_id)


# -- the last administrator ----------------------------------------------------------------------------------------------
def test_the_last_administrator_stays_one(cast: Cast) -> None:
    here, last = cast.organization_id, cast.people["administrator"]
    memberships.change_role(cast["administrator"], here, cast.people["second"], MEMBER, ADMIN)
    for actor in (cast["administrator"], cast["house"], OPERATOR):
        with pytest.raises(Conflict, match="last administrator"):
            memberships.remove(actor, here, last)
        with pytest.raises(Conflict, match="last administrator"):
            memberships.change_role(actor, here, last, MANAGER, ADMIN)
    assert role_of(last, here) == ADMIN
    memberships.change_role(cast["administrator"], here, cast.people["second"], ADMIN, MEMBER)
    accounts.set_active("second@example.com", False, "a test")
    with pytest.raises(Conflict, match="last administrator"):
        memberships.remove(cast["administrator"], here, last)  # an inactive one administers nothing
    accounts.set_active("second@example.com", True, "a test")
    memberships.remove(cast["administrator"], here, last)
    assert role_of(last, here) is None


def test_two_administrators_cannot_take_each_other_down_at_once(app: Flask, cast: Cast) -> None:
    here, pair = cast.organization_id, ("administrator", "second")

    def take_down(actor: str, other: str) -> str:
        with app.app_context():
            try:
                memberships.change_role(cast[actor], here, cast.people[other], MEMBER, ADMIN)
            except (Conflict, NotAllowed) as exc:
                return exc.code
            return "done"

    with ThreadPoolExecutor(2) as pool:
        said = list(pool.map(take_down, pair, reversed(pair)))
    assert said.count("done") == 1
    assert [role_of(cast.people[name], here) for name in pair].count(ADMIN) == 1


# -- two at the same thing -----------------------------------------------------------------------------------------------
@sqlite
def test_of_two_who_change_the_settings_the_second_is_told(cast: Cast) -> None:
    here, seen = cast.organization_id, organization(cast.organization_id).version
    changed = organizations.change(cast["administrator"], here, seen, Change(name="First"))
    assert changed.version == seen + 1
    with pytest.raises(Conflict, match="Somebody else changed this"):
        organizations.change(cast["second"], here, seen, Change(name="Second"))
    with pytest.raises(Conflict, match="Somebody else changed this"):
        organizations.set_active(cast["house"], here, False, seen)
    assert organization(here).name == "First"
    told = rows(select(AuditEntry).where(AuditEntry.action == "organization.change"))
    assert [entry.detail for entry in told] == [{"name": {"from": "Weavers", "to": "First"}}]


@sqlite
def test_of_two_who_change_a_role_the_second_is_told(cast: Cast) -> None:
    here, member = cast.organization_id, cast.people["member"]
    memberships.change_role(cast["administrator"], here, member, MANAGER, MEMBER)
    with pytest.raises(Conflict, match="Somebody else changed this"):
        memberships.change_role(cast["second"], here, member, ADMIN, MEMBER)
    assert role_of(member, here) == MANAGER


@sqlite
def test_saving_what_is_set_already_changes_nothing(cast: Cast) -> None:
    seen = organization(cast.organization_id).version
    same = organizations.change(
        cast["administrator"], cast.organization_id, seen, Change(name="Weavers", time_zone="UTC", alert_percents="")
    )
    assert same.version == seen
    assert not rows(select(AuditEntry).where(AuditEntry.action == "organization.change"))


@sqlite
@pytest.mark.parametrize(
    ("field_name", "value"),
    [
        ("name", ""),
        ("name", "x" * 121),
        ("name", "\u202e"),
        ("time_zone", "Mars/Olympus"),
        ("time_zone", "../../etc/passwd"),
        ("time_zone", ""),
        ("alert_percents", "0"),
        ("alert_percents", "101"),
        ("alert_percents", "80; 90"),
        ("alert_percents", "-5"),
        ("alert_percents", ",".join(map(str, range(1, 12)))),
    ],
)
def test_what_cannot_be_right_is_refused_by_its_field(cast: Cast, field_name: str, value: str) -> None:
    with pytest.raises(BadInput) as refused:
        _change(cast, cast["administrator"], **{field_name: value})
    assert refused.value.field == field_name


@sqlite
def test_alerts_are_set_and_go_back_to_the_installations(cast: Cast) -> None:
    assert _change(cast, OPERATOR, alert_percents="90, 50 %,90").alert_percents == (50, 90)
    assert organization(cast.organization_id).preferences == {"alert_percents": [50, 90]}
    assert _change(cast, OPERATOR, alert_percents="").alert_percents is None
    assert organization(cast.organization_id).preferences == {}


# -- invitations ---------------------------------------------------------------------------------------------------------
def token_of(made: invitations.Made) -> str:
    return made.link.rpartition("/")[2]


def test_an_invitation_makes_a_new_person_once(cast: Cast) -> None:
    made = invitations.create(cast["administrator"], cast.organization_id, "New@Example.com", MANAGER, link)
    token = token_of(made)
    kept = one(select(Invitation))
    assert (kept.address, kept.digest) == ("new@example.com", invitations.digest(token))
    assert token not in str([vars(entry) for entry in rows(select(AuditEntry))])
    offer = invitations.look(token)
    assert (offer.organization, offer.role, offer.invited_by, offer.known) == ("Weavers", MANAGER, "Administrator", False)
    newcomer = invitations.accept_as_new(token, "Nell", "a good password")
    found = one(select(Person).where(Person.id == newcomer))
    assert (found.email, found.full_name, found.role) == ("new@example.com", "Nell", MEMBER)
    assert (found.organization_id, role_of(newcomer, cast.organization_id)) == (cast.organization_id, MANAGER)
    signed_in = people.sign_in("new@example.com", "a good password")
    assert signed_in is not None
    assert signed_in.id == newcomer
    for accept in (lambda: invitations.accept_as_new(token, "Nell", "a good password"), lambda: invitations.look(token)):
        with pytest.raises(invitations.Gone, match="used already"):
            accept()
    with pytest.raises(invitations.Gone):
        invitations.accept(token, cast.people["outsider"])
    assert [view.state for view in invitations.rows(OPERATOR, cast.organization_id)] == ["accepted"]


def test_somebody_who_is_signed_in_joins_and_goes_on_there(cast: Cast) -> None:
    token = token_of(invitations.create(cast["manager"], cast.organization_id, "any@example.com", MEMBER, link))
    outsider = cast.people["outsider"]
    assert invitations.accept(token, outsider) == cast.organization_id
    assert works_in(outsider) == cast.organization_id
    assert [role_of(outsider, each) for each in (cast.organization_id, cast.other_id)] == [MEMBER, MEMBER]


@sqlite
def test_a_member_who_is_invited_to_more_becomes_more_and_never_less(cast: Cast) -> None:
    here = cast.organization_id
    for name, role, then in (("member", MANAGER, MANAGER), ("administrator", MEMBER, ADMIN)):
        token = token_of(invitations.create(OPERATOR, here, f"{name}.private@example.com", role, link))
        invitations.accept(token, cast.people[name])
        assert role_of(cast.people[name], here) == then


def test_of_many_who_use_a_link_at_once_one_joins(app: Flask, cast: Cast) -> None:
    token = token_of(invitations.create(OPERATOR, cast.organization_id, "any@example.com", MEMBER, link))
    many = [person(f"racer{number}", cast.other_id) for number in range(6)]

    def accept(person_id: uuid.UUID) -> bool:
        with app.app_context():
            try:
                invitations.accept(token, person_id)
            except invitations.Gone:
                return False
            return True

    with ThreadPoolExecutor(6) as pool:
        joined = list(pool.map(accept, many))
    assert joined.count(True) == 1
    assert [role_of(each, cast.organization_id) is not None for each in many] == joined


@sqlite
def test_the_address_of_somebody_known_takes_signing_in(cast: Cast) -> None:
    add_person(phone="+15005550188")
    for address in ("outsider@example.com", "+1 500 555 0188"):
        token = token_of(invitations.create(OPERATOR, cast.organization_id, address, MEMBER, link))
        assert invitations.look(token).known
        with pytest.raises(Conflict, match="sign in to accept"):
            invitations.accept_as_new(token, "Mallory", "a good password")
        assert one(select(Invitation).where(Invitation.digest == invitations.digest(token))).accepted_at is None


@sqlite
def test_a_number_that_is_invited_becomes_the_newcomers_and_they_sign_in_with_it(cast: Cast) -> None:
    made = invitations.create(cast["manager"], cast.organization_id, "+1 (500) 555-0199", MEMBER, link)
    assert made.sent_by == "simulator"
    newcomer = invitations.accept_as_new(token_of(made), "Phoebe", "a good password")
    assert one(select(Identity.person_id).where(Identity.address == "+15005550199")) == newcomer
    signed_in = people.sign_in("+1 500 555 0199", "a good password")
    assert signed_in is not None
    assert signed_in.id == newcomer
    assert people.sign_in("+15005550199", "another password") is None
    assert people.sign_in("+", "a good password") is None


@sqlite
def test_the_link_goes_out_by_text_message(cast: Cast) -> None:
    made = invitations.create(cast["manager"], cast.organization_id, "+15005550199", MEMBER, link)
    run_jobs()
    (message,) = sent("+15005550199")
    assert (message.kind, message.status) == ("notice", "delivered")
    assert message.body == f"Manager invites you to Weavers. Join here: {made.link}"


@sqlite
def test_what_is_invited_already_is_sent_again_and_the_link_before_is_void(cast: Cast) -> None:
    here = cast.organization_id
    first = invitations.create(cast["manager"], here, "new@example.com", MEMBER, link)
    with pytest.raises(Conflict, match="open invitation to this address"):
        invitations.create(cast["administrator"], here, "NEW@example.com", MEMBER, link)
    with pytest.raises(Conflict, match="in this organization already"):
        invitations.create(cast["manager"], here, "member@example.com", MEMBER, link)
    with writing() as connection:
        connection.execute(Invitation.__table__.update().values(expires_at=now()))  # type: ignore[attr-defined]
    with pytest.raises(invitations.Gone, match="has expired"):
        invitations.look(token_of(first))
    second = invitations.resend(cast["manager"], here, first.invitation.id, link)
    with pytest.raises(NotFound):
        invitations.look(token_of(first))
    assert invitations.look(token_of(second)).address == "new@example.com"
    invitations.revoke(cast["manager"], here, first.invitation.id)
    with pytest.raises(invitations.Gone, match="taken back"):
        invitations.accept_as_new(token_of(second), "New", "a good password")
    for act in (
        lambda: invitations.revoke(cast["manager"], here, first.invitation.id),
        lambda: invitations.resend(cast["manager"], here, first.invitation.id, link),
    ):
        with pytest.raises(Conflict, match="revoked already"):
            act()


@sqlite
def test_invitations_of_others_cannot_be_touched(cast: Cast) -> None:
    waiting = invitations.create(OPERATOR, cast.other_id, "new@example.com", MEMBER, link).invitation.id
    for act in (
        lambda: invitations.revoke(cast["manager"], cast.organization_id, waiting),
        lambda: invitations.resend(cast["manager"], cast.organization_id, waiting, link),
        lambda: invitations.revoke(cast["manager"], cast.other_id, waiting),
    ):
        with pytest.raises(NotFound):
            act()
    of_admin = invitations.create(OPERATOR, cast.organization_id, "boss@example.com", ADMIN, link).invitation.id
    for act in (
        lambda: invitations.revoke(cast["manager"], cast.organization_id, of_admin),
        lambda: invitations.resend(cast["manager"], cast.organization_id, of_admin, link),
    ):
        with pytest.raises(NotAllowed):
            act()


@sqlite
@pytest.mark.parametrize(
    ("name", "password", "field_name"), [("", "a good password", "name"), ("N", "", "password"), ("N", "short", "password")]
)
def test_a_newcomer_is_told_what_is_wrong_and_the_link_stays_good(
    cast: Cast, name: str, password: str, field_name: str
) -> None:
    token = token_of(invitations.create(OPERATOR, cast.organization_id, "new@example.com", MEMBER, link))
    with pytest.raises(BadInput) as refused:
        invitations.accept_as_new(token, name, password)
    assert refused.value.field == field_name
    assert invitations.look(token)


@sqlite
@pytest.mark.parametrize("address", ["", "nobody", "a@b", "+1", "12345", "x" * 300 + "@example.com"])
def test_an_address_that_is_none_is_refused(cast: Cast, address: str) -> None:
    with pytest.raises(BadInput) as refused:
        invitations.create(OPERATOR, cast.organization_id, address, MEMBER, link)
    assert refused.value.field == "address"


@sqlite
@pytest.mark.parametrize("token", ["", "x", "A" * 43, "A" * 44, "é" * 43])
def test_a_link_that_was_never_made_leads_nowhere(cast: Cast, token: str) -> None:
    with pytest.raises(NotFound):
        invitations.look(token)


def test_two_organizations_cannot_have_one_name(app: Flask) -> None:
    organizations.create(OPERATOR, "Acme")
    with pytest.raises(Conflict, match="called ACME already"):
        organizations.create(OPERATOR, "ACME")
