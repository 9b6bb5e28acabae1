"""Pictures of requests, for those whose they are."""

from __future__ import annotations

from flask import Blueprint, Response, request, send_file
from flask.typing import ResponseReturnValue
from sqlalchemy import select

from webapp.contracts.errors import BadInput
from webapp.contracts.texts import clean
from webapp.extensions import reading
from webapp.models import Attachment
from webapp.pipeline import pictures
from webapp.pipeline.admit import PICTURES_MAX
from webapp.web import auth

FIELD = "pictures"
"""The field of a form that carries pictures."""
FORM_MAX_BYTES = PICTURES_MAX * pictures.MAX_BYTES + 1024 * 1024
"""The largest form with pictures: as many as a message takes, and room for everything else."""
_NAME_CHARS = 60

blueprint = Blueprint("pictures", __name__)
blueprint.before_request(auth.require_sign_in)


@blueprint.get("/pictures/<sha256>")
def show(sha256: str) -> ResponseReturnValue:
    """The picture with this hash, to whoever sent it or had it made, and to administrators; to others there is none."""
    media_type = _media_type(sha256)
    if media_type is None:
        return _none()
    try:
        # The address says what is in it, so the hash is its tag; the browser asks each time whether it may still be seen.
        response = send_file(
            pictures.path_of(sha256).resolve(),
            mimetype=media_type,
            download_name=pictures.file_name(sha256, media_type),
            conditional=True,
            etag=sha256,
            last_modified=None,
            max_age=0,
        )
    except OSError:
        return _none()
    response.headers["Cache-Control"] = "private, no-cache"
    response.headers["Content-Disposition"] = f'inline; filename="{pictures.file_name(sha256, media_type)}"'
    response.vary.add("Cookie")
    return response


# Talisman writes its headers after everybody else, and looks here for what a view wants otherwise. A picture loads nothing.
show.talisman_view_options = {"content_security_policy": "default-src 'none'"}  # type: ignore[attr-defined]


def uploaded() -> tuple[bytes, ...]:
    """The pictures in the form that was sent. `BadInput` says which one cannot be taken, and why."""
    files = [file for file in request.files.getlist(FIELD) if file.filename]
    if len(files) > PICTURES_MAX:
        raise BadInput(FIELD, f"At most {PICTURES_MAX} pictures fit into one message; these are {len(files)}.")
    found = []
    for file in files:
        data = file.stream.read(pictures.MAX_BYTES + 1)
        try:
            pictures.look(data)
        except BadInput as exc:
            raise BadInput(FIELD, f"{clean(file.filename or '')[:_NAME_CHARS]}: {exc.message}") from exc
        found.append(data)
    return tuple(found)


def _media_type(sha256: str) -> str | None:
    """The picture's media type, None if it is not there for whoever is signed in."""
    try:
        pictures.path_of(sha256)
    except ValueError:
        return None
    query = select(Attachment.media_type).where(Attachment.sha256 == sha256).limit(1)
    me = auth.me()
    if not me.is_admin:
        query = query.where(Attachment.person_id == me.id, Attachment.organization_id == me.organization_id)
    with reading() as connection:
        return connection.execute(query).scalar()


def _none() -> Response:
    """Plain text: under the pictures' policy a page could not load its style."""
    return Response("There is no such picture.\n", 404, {"Cache-Control": "no-store"}, mimetype="text/plain")
