"""Who calls: by a bearer token, or by the session of a browser."""

from __future__ import annotations

from typing import cast

from flask import request
from flask_login import current_user

from webapp.api.problems import Unauthorized
from webapp.contracts.errors import NotAllowed
from webapp.models import Person
from webapp.services import people

_HOW = "Sign in, or send `Authorization: Bearer TOKEN` with a token that has one of these scopes: {}."


def caller(*scopes: str) -> Person:
    """The active person whose token has one of `scopes`, else whose session it is. `Unauthorized` if there is neither; a token
    that does not open the door is not made good by a session."""
    kind, _, token = request.headers.get("Authorization", "").partition(" ")
    if kind:
        found = (people.person_of_token(token.strip(), scope) for scope in scopes if kind.lower() == "bearer")
        person = next((person for person in found if person is not None), None)
        if person is None:
            raise Unauthorized(_HOW.format(", ".join(scopes)))
        return person
    if not current_user.is_authenticated:
        raise Unauthorized(_HOW.format(", ".join(scopes)))
    return cast(Person, current_user._get_current_object())


def administrator(*scopes: str) -> Person:
    """The same, for administrators of the installation only: `NotAllowed` for others."""
    person = caller(*scopes)
    if not person.is_admin:
        raise NotAllowed("This is for administrators of the installation.")
    return person
