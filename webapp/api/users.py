"""People: registered, found, corrected, written to. Members see themselves, managers their organization's people,
administrators all."""

from __future__ import annotations

import uuid
from dataclasses import replace

from flask import Response, url_for

from webapp.api import access, once, task_answers
from webapp.api.base import answer, area, make_cursor, page_answer, read_cursor
from webapp.api.deliveries_models import Delivery
from webapp.api.task_answers import visible
from webapp.api.task_models import Task, TaskQuery
from webapp.api.tasks import TaskPage
from webapp.api.users_models import (
    User,
    UserChange,
    UserMessage,
    UserPage,
    UserPath,
    UserProfile,
    UserQuery,
    UserRegistration,
    UserStatistics,
    UserTaskQuery,
    UserTier,
    UserTierChange,
)
from webapp.contracts.errors import BadInput, Conflict, NotAllowed
from webapp.models import PersonRole
from webapp.pipeline import deliver
from webapp.services import delivery_lists, messages, person_changes, person_views, plan_changes
from webapp.services.person_changes import NewPerson
from webapp.services.person_views import PersonView, Wanted
from webapp.services.request_lists import Whose

blueprint = area("users", "Users", "The people of an organization, or of the installation.")


@blueprint.get("/users", summary="List people", responses={200: UserPage})
@access.opens(role=PersonRole.MANAGER)
def list_users(query: UserQuery) -> Response:
    """The people of the organization that one works in, for its managers; everybody, for administrators of the installation.
    The latest first, unless `order` says otherwise."""
    after = read_cursor(query.cursor, uuid.UUID)
    role = PersonRole(query.role) if query.role else None
    wanted = Wanted(query.active, query.plan, role, query.q, query.created_from, query.created_to)
    found = person_views.page(
        visible(access.caller()),
        wanted,
        after=after[0] if after else None,
        size=query.limit,
        oldest_first=query.order == "created",
        total=query.total,
    )
    return page_answer(map(User.of, found.lines), make_cursor(found.next_id) if found.next_id else None, found.total)


@blueprint.post("/users", summary="Register a person", responses={201: User})
@once.repeatable
@access.opens(role=PersonRole.MANAGER)
def create_user(body: UserRegistration) -> Response:
    """Register somebody: managers into the organization that they work in, on a plan no higher than the one with which
    everybody begins, by phone number or by e-mail; administrators of the installation into any, on any plan, by both if they
    like, and with a password. 409 if the phone number or the e-mail is known
    already."""
    return _register(body)


@blueprint.post("/users/register", summary="Register a person (another address)", responses={201: User})
@once.repeatable
@access.opens(role=PersonRole.MANAGER)
def register_user(body: UserRegistration) -> Response:
    """The same as `POST /api/users`. Nobody registers themselves here."""
    return _register(body)


def _register(body: UserRegistration) -> Response:
    caller = access.caller()
    place = body.organization_id or caller.organization_id
    if place != caller.organization_id and not caller.is_admin:
        raise BadInput("organization_id", "There is no such organization: leave it out for the one that you work in.")
    new = NewPerson(body.email, body.phone, body.full_name, body.plan, body.time_zone, body.password)
    made = person_changes.register(caller.actor, place, new)
    view = person_views.find(visible(caller), str(made))
    return answer(User.of(view), 201, {"Location": url_for("api_users.read_user", who=str(made))})


@blueprint.get("/users/me", summary="Who one is", responses={200: User})
@access.opens("read", "chat", "write", "sms")
def read_me() -> Response:
    """The person behind the token or the session, in the organization that it works in."""
    return answer(User.of(person_views.find(visible(access.caller()), person_views.ME)))


@blueprint.get("/users/<who>", summary="Read a person", responses={200: User})
@access.opens("read")
def read_user(path: UserPath) -> Response:
    """One person, by id or phone number."""
    return answer(User.of(_find(path)))


@blueprint.patch("/users/<who>", summary="Change a person", responses={200: User})
@access.opens("write")
def change_user(path: UserPath, body: UserChange) -> Response:
    """Change what is named. What people do not change of themselves, administrators of the installation do."""
    caller, view = access.caller(), _find(path)
    values = {name: getattr(body, name) for name in body.model_fields_set}
    person_changes.change(caller.actor, view.id, values, house=caller.is_admin)
    return answer(User.of(person_views.find(visible(caller), str(view.id))))


@blueprint.post("/users/<who>/deactivate", summary="Shut a person out", responses={200: User})
@access.opens(role=PersonRole.ADMIN)
def deactivate_user(path: UserPath) -> Response:
    """They are neither answered nor signed in any more, and their sessions end. For administrators of the installation."""
    return _set_active(path, False)


@blueprint.post("/users/<who>/activate", summary="Let a person in again", responses={200: User})
@access.opens(role=PersonRole.ADMIN)
def activate_user(path: UserPath) -> Response:
    """For administrators of the installation."""
    return _set_active(path, True)


def _set_active(path: UserPath, active: bool) -> Response:
    caller, view = access.caller(), _find(path)
    person_changes.set_active(caller.actor, view.id, active)
    return answer(User.of(person_views.find(visible(caller), str(view.id))))


@blueprint.get("/users/<who>/profile", summary="A person and their figures", responses={200: UserProfile})
@access.opens("read")
def read_profile(path: UserPath) -> Response:
    """A person with how many requests they made, what became of them, what they were about, and what they cost."""
    view = _find(path)
    figures = UserStatistics.of(view, person_views.statistics(view))
    return answer(UserProfile(user=User.of(view), statistics=figures))


@blueprint.get("/users/<who>/tasks", summary="List a person's tasks", responses={200: TaskPage})
@access.opens("read")
def list_tasks_of_user(path: UserPath, query: UserTaskQuery) -> Response:
    """What somebody asked for, the latest first: one's own for everybody, in the organization for its managers, who read no
    texts of others, and all for administrators."""
    wanted = TaskQuery(**query.model_dump(exclude_none=True), person=_find(path).id)
    return task_answers.listed(Task, wanted)


@blueprint.post("/users/<who>/send_message", summary="Send a person a text message", responses={202: Delivery})
@once.repeatable
@access.opens("sms")
def send_message(path: UserPath, body: UserMessage) -> Response:
    """Send a text message to somebody's phone. Managers write to those who work in their organization, administrators to
    everybody; a token with the scope `sms` alone does so as whoever it belongs to. 409 for somebody who has no phone number or
    has opted out. What becomes of the message is at the address in `Location`."""
    caller = access.caller()
    if caller.token_id is None and not caller.is_manager:
        raise NotAllowed("This is for managers of the organization, and for tokens with the scope sms.")
    # What the scope opens here goes as far as the person's role does.
    scope = visible(replace(caller, scopes=caller.scopes | {"admin"}))
    view = person_views.find(scope, path.who)
    if scope.whose is Whose.ORGANIZATION and not view.here:
        raise Conflict("This person is working in another organization now.")
    phone = person_views.phone_of(view)
    if phone is None:
        raise Conflict("This person has no phone number.")
    address, text, channel = messages.checked(phone, body.body, body.channel or "")
    try:
        delivery_id = deliver.send_by_hand(address, text, channel, view.id)
    except NotAllowed as exc:
        raise Conflict(exc.message) from exc
    messages.note(caller.actor, view.id, view.organization_id, delivery_id, channel)
    sent, _ = delivery_lists.one(scope, delivery_id)
    headers = {"Location": url_for("api_deliveries.read_delivery", delivery_id=delivery_id), "Retry-After": "2"}
    return answer(Delivery.of(sent), 202, headers)


@blueprint.post("/users/<who>/update_tier", summary="Put a person on another plan", responses={200: UserTierChange})
@access.opens(role=PersonRole.ADMIN)
def update_tier(path: UserPath, body: UserTier) -> Response:
    """Put somebody on another plan; the reason is kept, and with a higher plan the month starts afresh. For administrators of
    the installation."""
    caller, view = access.caller(), _find(path)
    changed = plan_changes.change_person(view.id, body.plan, body.reason, caller.actor)
    restarted = changed.restarted > 0
    return answer(UserTierChange(user_id=view.id, before=changed.before, plan=changed.plan, month_restarted=restarted))


def _find(path: UserPath) -> PersonView:
    return person_views.find(visible(access.caller()), path.who)
