"""Batches: many prompts from one file. Upload and check, confirm the price, watch, and take the results home."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import BinaryIO, cast

from flask import Blueprint, Flask, Response, current_app, flash, g, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from flask_login import current_user
from werkzeug.exceptions import RequestEntityTooLarge

from webapp.contracts.errors import Conflict, NotFound
from webapp.contracts.rounding import rounded_microusd
from webapp.extensions import current_settings
from webapp.models import BatchStatus
from webapp.pipeline import batch_feed
from webapp.services import batch_results, batch_views, batches
from webapp.services.batch_files import COLUMNS_MAX, FAULTS_SHOWN, FILE_MAX_BYTES
from webapp.services.batches import NotTaken, Order, Viewer
from webapp.web import auth, dashboard, errors

blueprint = Blueprint("batches", __name__, url_prefix="/batches")
blueprint.before_request(auth.require_sign_in)

FORM_MAX_BYTES = FILE_MAX_BYTES + 4 * 1024 * 1024
"""The largest form: a file, and room for a template and everything else."""
_TOO_LARGE = f"What was sent is larger than a batch can be: a file of at most {FILE_MAX_BYTES // 1_048_576} MB."


@blueprint.url_value_preprocessor
def _make_room(endpoint: str | None, _values: dict[str, object] | None) -> None:
    """A file may be larger than any other form. It runs before the check of the CSRF token, which reads the form; those who are
    not signed in get no such room."""
    if endpoint == "batches.create" and current_user.is_authenticated:
        request.max_content_length = FORM_MAX_BYTES
        request.max_form_memory_size = 4 * 1024 * 1024


@blueprint.errorhandler(RequestEntityTooLarge)
def _too_large(_exc: RequestEntityTooLarge) -> ResponseReturnValue:
    """Nothing of the form can be read any more."""
    return errors.answer(413, _TOO_LARGE)


def prepare(app: Flask) -> None:
    """Tell the templates for whom the menu has an entry, and how an estimate is told."""
    app.jinja_env.globals.update(may_batch=_may_batch)
    app.jinja_env.filters.update(rounded=rounded_microusd)


@blueprint.get("")
def index() -> ResponseReturnValue:
    """One's own batches; those who see others' too find them by `whose=all`."""
    viewer = _viewer()
    everybody = request.args.get("whose") == "all" and batch_views.sees_others(viewer)
    lines = batch_views.lines(viewer, everybody=everybody, before=_uuid(request.args.get("before")))
    return render_template(
        "batches/list.html",
        lines=lines,
        more=len(lines) == batch_views.PAGE_BATCHES,
        everybody=everybody,
        sees_others=batch_views.sees_others(viewer),
        why_not=_why_not(),
    )


@blueprint.get("/new")
def begin() -> ResponseReturnValue:
    """The form."""
    why_not = _why_not()
    return _form({}) if not why_not else (_form({}), 403)


@blueprint.post("/new")
def create() -> ResponseReturnValue:
    """Check a file, whole. What is wrong with it is shown beside what was typed."""
    form = request.form
    given = {name: form.get(name, "") for name in ("name", "template", "model")}
    file = request.files.get("file")
    if file is None or not file.filename:
        return _form(given, {"file": "Choose a file: CSV or JSON Lines, with a prompt a row."}), 422
    model = given["model"] if auth.me().is_admin else ""
    order = Order(given["name"], cast(BinaryIO, file.stream), file.filename, given["template"], model)
    try:
        batch_id = batches.create(auth.me().id, order, _viewer())
    except NotTaken as exc:
        return _form(given, exc.fields, exc), 422
    except Conflict as exc:
        return _form(given, {"file": exc.message}), 409
    finally:
        file.close()
    return redirect(url_for("batches.show", batch_id=batch_id), 303)


@blueprint.get("/<uuid:batch_id>")
def show(batch_id: uuid.UUID) -> ResponseReturnValue:
    """A batch: its price to be confirmed, or how far it is; for the page's own script that part only."""
    return _page(batch_views.view(_viewer(), batch_id), ask_cancel="cancel" in request.args)


@blueprint.post("/<uuid:batch_id>/<any(confirm, pause, resume, cancel):action>")
def act(batch_id: uuid.UUID, action: str) -> ResponseReturnValue:
    """Start it, pause it, go on, cancel it. Two clicks at once are one."""
    viewer = _viewer()
    try:
        _ACTIONS[action](viewer, batch_id)
    except Conflict as exc:
        if errors.wants_json():
            raise
        if batch_views.view(viewer, batch_id).status != _WANTED[action]:
            flash(exc.message, "bad")
    else:
        if action == "cancel":
            batch_feed.stop(batch_id)
    return redirect(url_for("batches.show", batch_id=batch_id), 303)


@blueprint.post("/<uuid:batch_id>/delete")
def delete(batch_id: uuid.UUID) -> ResponseReturnValue:
    """Throw away a batch that was never started."""
    batches.remove(_viewer(), batch_id)
    flash("The batch was deleted. Nothing was asked, and nothing was charged.", "good")
    return redirect(url_for("batches.index"), 303)


@blueprint.get("/<uuid:batch_id>/results.<any(csv, jsonl):form>")
def results(batch_id: uuid.UUID, form: str) -> ResponseReturnValue:
    """The result file, as far as it is there."""
    result = batch_results.result(_viewer(), batch_id, form)
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
    response = Response(batch_results.in_context(result.pieces, app.app_context), content_type=result.media_type)
    response.headers["Content-Disposition"] = f'attachment; filename="{result.file_name}"'
    response.headers["Cache-Control"] = "no-store"
    return response


# -- parts ---------------------------------------------------------------------------------------------------------------
_ACTIONS: dict[str, Callable[[Viewer, uuid.UUID], None]] = {
    "confirm": batches.confirm,
    "pause": batches.pause,
    "resume": batches.resume,
    "cancel": batches.cancel,
}

_WANTED = {
    "confirm": BatchStatus.RUNNING,
    "pause": BatchStatus.PAUSED,
    "resume": BatchStatus.RUNNING,
    "cancel": BatchStatus.CANCELLED,
}
"""What a batch is after each: whoever clicks twice finds it so, and is told of no fault."""


def _viewer() -> Viewer:
    person_id, organization_id = auth.here()
    return Viewer(person_id, organization_id, auth.me().is_admin, dashboard.actor())


def _why_not() -> str:
    """Why whoever is signed in may not make batches, '' if they may."""
    return batches.why_not(auth.me().id)


def _may_batch() -> bool:
    """Whether the menu has an entry for whoever is signed in; the database is asked only where their own plan is silent."""
    if not current_user.is_authenticated:
        return False
    me = auth.me()
    if batches.FEATURE in me.plan.features:
        return True
    if me.organization.plan_code is None:
        return False
    if "may_batch" not in g:
        g.may_batch = not _why_not()
    return bool(g.may_batch)


def _form(given: dict[str, str], faults: dict[str, str] | None = None, refused: NotTaken | None = None) -> str:
    settings = current_settings()
    return render_template(
        "batches/new.html",
        given=given,
        faults=faults or {},
        file_faults=refused.file.faults if refused is not None and refused.file is not None else None,
        faults_shown=FAULTS_SHOWN,
        rows_max=settings.batch_rows_max,
        columns_max=COLUMNS_MAX,
        chars_max=settings.prompt_max_chars,
        megabytes=FILE_MAX_BYTES // 1_048_576,
        name_chars=batches.NAME_CHARS,
        file_chosen_before=bool(given),
        why_not=_why_not(),
    )


def _page(batch: batch_views.BatchView, *, ask_cancel: bool) -> ResponseReturnValue:
    return dashboard.part_or_page("batches/_state.html", "batches/batch.html", b=batch, ask_cancel=ask_cancel)


def _uuid(text: str | None) -> uuid.UUID | None:
    if not text:
        return None
    try:
        return uuid.UUID(text)
    except ValueError:
        raise NotFound("There is no such page.") from None
