"""The chat: conversations, sending, and the answer as it is written."""

from __future__ import annotations

import contextlib
import json
import secrets
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from flask import Blueprint, Flask, Response, current_app, make_response, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from flask_login import current_user
from werkzeug.exceptions import RequestEntityTooLarge

from webapp.contracts.errors import BadInput, Conflict, LimitReached, LimitsUnknown, NotFound
from webapp.contracts.texts import clean
from webapp.extensions import now
from webapp.pipeline import cancel as cancelling
from webapp.pipeline import pictures as kept_pictures
from webapp.pipeline import stream
from webapp.pipeline.admit import PICTURES_MAX, admit
from webapp.pipeline.intake import Intake, Outcome
from webapp.services import history, waiting
from webapp.web import auth, errors, pictures, streams, usage_page

blueprint = Blueprint("chat", __name__)
blueprint.before_request(auth.require_sign_in)

STREAM_S = 600.0
"""How long one connection is streamed to; the browser then comes back and goes on where it was."""
_RETRY_MS = 1000
_KEY_MAX_CHARS = 128
EXAMPLES = (
    "Show me how to reverse a list in Python",
    "List the steps to plan a small birthday party",
    "Compare tea and coffee in a table",
)


@blueprint.url_value_preprocessor
def _make_room(endpoint: str | None, _values: dict[str, object] | None) -> None:
    """A message may bring pictures, so it may be larger than any other form. It runs before the check of the CSRF token, which
    reads the form; those who are not signed in get no such room."""
    if endpoint == "chat.send" and request.mimetype == "multipart/form-data" and current_user.is_authenticated:
        request.max_content_length = pictures.FORM_MAX_BYTES


@blueprint.errorhandler(RequestEntityTooLarge)
def _too_large(_exc: RequestEntityTooLarge) -> ResponseReturnValue:
    """Nothing of the form can be read any more, so what was typed is only kept by the page's script."""
    most = kept_pictures.MAX_BYTES // 1_048_576
    words = f"What was sent is larger than a message can be: a text, and {PICTURES_MAX} pictures of at most {most} MB each."
    return errors.answer(413, words)


def new_key() -> str:
    """A one-time key for a form: however often it arrives, it is one request."""
    return secrets.token_urlsafe(18)


@blueprint.get("/")
def home() -> ResponseReturnValue:
    """The conversation that was active last, or where to begin."""
    latest = history.latest_conversation(*auth.here())
    return begin() if latest is None else conversation(latest)


@blueprint.get("/c/new")
def begin() -> ResponseReturnValue:
    """An empty conversation, which comes into being with its first message."""
    return _page(None, "New conversation")


@blueprint.get("/c/<uuid:conversation_id>")
def conversation(conversation_id: uuid.UUID) -> ResponseReturnValue:
    """A conversation, newest part first; `before` shows what precedes a request."""
    return _page(conversation_id, history.title(*auth.here(), conversation_id), before=_uuid(request.args.get("before")))


@blueprint.get("/conversations")
def conversations() -> ResponseReturnValue:
    """All conversations, a page at a time; for the page's own script the next lines only."""
    lines = history.conversations(*auth.here(), request.args.get("after", ""))
    more = len(lines) == history.PAGE_CONVERSATIONS
    template = "chat/_lines.html" if errors.is_htmx() else "chat/conversations.html"
    response = make_response(render_template(template, lines=lines, more=more, current=None))
    response.vary.add("HX-Request")
    return response


@blueprint.post("/chat")
def send() -> ResponseReturnValue:
    """Send a message into a conversation, or begin one with it."""
    form = request.form
    named = form.get("conversation", "")
    conversation_id = _uuid(named)
    if named and conversation_id is None:
        raise NotFound("There is no such conversation.")
    # Forms with files come with the line ends of MIME.
    text, key = form.get("text", "").replace("\r\n", "\n"), clean(form.get("key", ""))[:_KEY_MAX_CHARS]
    try:
        given = pictures.uploaded()
    except BadInput as exc:
        return _kept(text, conversation_id, exc)
    return _send(_intake(text, conversation_id, key, given=given))


@blueprint.post("/requests/<uuid:request_id>/again")
def again(request_id: uuid.UUID) -> ResponseReturnValue:
    """Send a prompt once more, as a new request. Pressing twice is one, unless a limit refused the first."""
    first = history.exchange(*auth.here(), request_id)
    try:
        given = tuple(kept_pictures.read(digest).data for digest in first.given)
    except (OSError, ValueError) as exc:
        raise Conflict("A picture of this message is not there any more. Send it as a new message.") from exc
    intake = _intake(first.prompt, first.conversation_id, history.again_key(auth.me().id, request_id), given=given)
    parameters = {name: value for name, value in first.parameters.items() if name != "pictures"}
    return _send(replace(intake, operation=first.operation, parameters=parameters))


@blueprint.post("/requests/<uuid:request_id>/cancel")
def cancel(request_id: uuid.UUID) -> ResponseReturnValue:
    """Stop an answer. What was written of it is kept."""
    if not history.owns(*auth.here(), request_id):
        raise NotFound("There is no such request.")
    # It may end while the finger is on its way to the button: that is what was wanted.
    with contextlib.suppress(Conflict):
        cancelling.cancel(request_id, auth.me().id)
    if errors.is_htmx():
        # The end of the stream brings the page up to date.
        return "", 204
    return redirect(_place(history.exchange(*auth.here(), request_id)), 303)


@blueprint.get("/requests/<uuid:request_id>")
def show(request_id: uuid.UUID) -> ResponseReturnValue:
    """One exchange as it is now: a part of the page for its script, else the conversation it is in."""
    exchange = history.exchange(*auth.here(), request_id)
    if not errors.is_htmx():
        return redirect(_place(exchange), 303)
    response = make_response(render_template("chat/_exchange.html", x=exchange, waits=_waits([exchange])))
    response.headers["X-Request-Status"] = exchange.status
    return response


@blueprint.get("/requests/<uuid:request_id>/events")
def events(request_id: uuid.UUID) -> ResponseReturnValue:
    """The answer as server-sent events: `piece` and `reset` with a JSON string, `end` with the status.

    503 where too many are open already: the page then asks for the answer in another way, and for a stream again.
    """
    person_id = auth.me().id
    if not history.owns(*auth.here(), request_id):
        raise NotFound("There is no such request.")
    leave = streams.take(person_id)
    if leave is None:
        full = {"Retry-After": str(streams.RETRY_AFTER_S), "Cache-Control": "no-store"}
        return Response("Too many answers are being watched.\n", 503, full, mimetype="text/plain")
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
    after = request.headers.get("Last-Event-ID", "")
    response = Response(_events(app, request_id, after, leave), mimetype="text/event-stream")
    # A generator that was never begun has no `finally`: who goes before the first byte is only seen here.
    response.call_on_close(leave)
    # Without buffering in proxies, or an answer comes in one lump.
    response.headers.update({"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
    return response


def _events(app: Flask, request_id: uuid.UUID, after: str, leave: Callable[[], None]) -> Iterator[bytes]:
    source = stream.read(request_id, after, STREAM_S)
    try:
        yield f"retry: {_RETRY_MS}\n\n".encode()
        while True:
            # The context is there for each step and never across a `yield`: between two of them the thread may be lent out.
            with app.app_context():
                event = next(source, None)
            if event is None:
                return
            yield _wire(event)
    finally:
        leave()


def _wire(event: stream.StreamEvent) -> bytes:
    if event.kind is stream.Kind.WAITING:
        return b": waiting\n\n"
    place = f"id: {event.id}\n" if event.id else ""
    return f"{place}event: {event.kind.value}\ndata: {json.dumps(event.text)}\n\n".encode()


# -- parts ---------------------------------------------------------------------------------------------------------------
def _uuid(text: str | None) -> uuid.UUID | None:
    try:
        return uuid.UUID(text) if text else None
    except ValueError:
        return None


def _place(exchange: history.Exchange) -> str:
    """Where an exchange is shown."""
    if exchange.conversation_id is None:
        return url_for("chat.home")
    return url_for("chat.conversation", conversation_id=exchange.conversation_id, _anchor=f"request-{exchange.id}")


def _waits(exchanges: Sequence[history.Exchange]) -> Mapping[uuid.UUID, waiting.Estimate]:
    """What is to be said of those that wait in the queue."""
    return waiting.estimates([x.id for x in exchanges if x.waiting and not x.waits_until])


def _page(
    conversation_id: uuid.UUID | None,
    title: str,
    *,
    before: uuid.UUID | None = None,
    message: str = "",
    text: str = "",
    key: str = "",
) -> str:
    here = auth.here()
    exchanges, earlier = history.exchanges(*here, conversation_id, before) if conversation_id is not None else ([], False)
    lines = history.conversations(*here)
    return render_template(
        "chat/page.html",
        title=title,
        conversation_id=conversation_id,
        exchanges=exchanges,
        waits=_waits(exchanges),
        earlier=earlier,
        before=before,
        lines=lines,
        more=len(lines) == history.PAGE_CONVERSATIONS,
        current=conversation_id,
        key=key or new_key(),
        examples=EXAMPLES,
        pictures_max=PICTURES_MAX,
        picture_max_bytes=kept_pictures.MAX_BYTES,
        picture_types=",".join(kept_pictures.EXTENSIONS),
        message=message,
        text=text,
        owner=here[0],
        near=usage_page.near(),
    )


def _intake(text: str, conversation_id: uuid.UUID | None, key: str, *, given: tuple[bytes, ...] = ()) -> Intake:
    return Intake(
        medium="web",
        text=text,
        person_id=auth.me().id,
        conversation_id=conversation_id,
        new_conversation=conversation_id is None,
        idempotency_key=key or None,
        pictures=given,
    )


def _send(intake: Intake) -> ResponseReturnValue:
    """Admit, and show what became of it."""
    conversation_id = intake.conversation_id
    refused: LimitReached | LimitsUnknown | None = None
    try:
        admission = admit(intake)
        request_id, repeated = admission.request_id, admission.outcome is Outcome.REPEATED
    except (LimitReached, LimitsUnknown) as exc:
        request_id, repeated, refused = uuid.UUID(exc.request_id), False, exc
    except (BadInput, Conflict) as exc:
        return _kept(intake.text, conversation_id, exc)
    except NotFound as exc:
        # Its reader may have gone on in another organization, in another tab.
        return errors.answer(404, exc.message, typed=intake.text)
    assert request_id is not None, "a signed-in person's message becomes a request"
    exchange = history.exchange(*auth.here(), request_id)
    if not errors.is_htmx():
        return redirect(_place(exchange), 303)
    if repeated:
        response = make_response("")
        # A query makes the browser load the page again even where only the anchor would differ.
        response.headers["HX-Redirect"] = url_for(
            "chat.conversation", conversation_id=exchange.conversation_id, seen=request_id, _anchor=f"request-{request_id}"
        )
        return response
    return _sent(exchange, begun=conversation_id is None, refused=refused)


def _sent(exchange: history.Exchange, *, begun: bool, refused: LimitReached | LimitsUnknown | None) -> Response:
    """The part of the page that a new message adds, and what else it changes there."""
    here = auth.here()
    lines = history.conversations(*here) if begun else []
    title = history.title(*here, exchange.conversation_id) if begun and exchange.conversation_id else ""
    response = make_response(
        render_template(
            "chat/_sent.html",
            x=exchange,
            begun=begun,
            title=title,
            lines=lines,
            more=len(lines) == history.PAGE_CONVERSATIONS,
            current=exchange.conversation_id,
            key=new_key(),
        )
    )
    if begun:
        response.headers["HX-Push-Url"] = url_for("chat.conversation", conversation_id=exchange.conversation_id)
    if isinstance(refused, LimitsUnknown):
        response.status_code = 503
    elif refused is not None:
        response.status_code = 429
        wait_s = (refused.resets_at - now()).total_seconds()
        response.headers["Retry-After"] = str(max(1, int(wait_s)))
    return response


def _kept(text: str, conversation_id: uuid.UUID | None, exc: BadInput | Conflict) -> ResponseReturnValue:
    """Nothing was sent: say why, and keep what was typed."""
    status = 422 if isinstance(exc, BadInput) else 409
    if errors.is_htmx() or errors.wants_json():
        return errors.answer(status, exc.message, code=exc.code)
    title = history.title(*auth.here(), conversation_id) if conversation_id else "New conversation"
    # A browser does not fill a field for files again.
    again = " Choose the pictures again." if any(file.filename for file in request.files.getlist(pictures.FIELD)) else ""
    return _page(conversation_id, title, message=exc.message + again, text=text), status
