"""Forms that make something which is shown once: sent again by a reload or a second click, they make nothing more."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

from flask import request

from webapp.contracts.errors import Conflict, Refusal
from webapp.contracts.texts import clean
from webapp.services import kept_answers
from webapp.services.kept_answers import Begun, Kept
from webapp.web import auth

FIELD = "once"
_KEY_MAX = 100


class SentBefore(Conflict):
    """The same form, with the same in it, was sent before."""


def new_key() -> str:
    """What a form says in its field `once`: a form that is loaded again is another one."""
    return secrets.token_urlsafe(18)


@contextmanager
def carried_out() -> Iterator[None]:
    """Do what the form of this call asks for, unless it was done: `SentBefore`, with nothing done. A refusal leaves the form to
    be sent again. A form without a key is never the same."""
    key = clean(request.form.get(FIELD, ""))[:_KEY_MAX]
    begun = _begin(key) if key else None
    try:
        yield
    except BaseException as exc:
        if begun is not None:
            kept_answers.abandon(begun, nothing_done=isinstance(exc, Refusal))
        raise
    if begun is not None:
        # The answer itself is not kept: it holds a secret, which is shown to nobody a second time.
        kept_answers.finish(begun, Kept(200))


def _begin(key: str) -> Begun:
    typed = [each for each in request.form.items(multi=True) if each[0] not in (FIELD, "csrf_token")]
    digest = kept_answers.digest_of(request.path, key, *chain.from_iterable(typed))
    try:
        found = kept_answers.begin(auth.me().id, f"form:{digest}", digest)
    except kept_answers.KeyInUse as exc:
        raise SentBefore("The form is being carried out.") from exc
    if isinstance(found, Kept):
        raise SentBefore("The form was carried out before.")
    if found.again:
        # A process died, or failed, in the middle: whether it had made something is for its reader to see.
        kept_answers.finish(found, Kept(200))
        raise SentBefore("The form was begun before.")
    return found
