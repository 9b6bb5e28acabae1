"""The API's own description: OpenAPI 3.1 for programs, a page for people. Made once in each process, from the routes."""

from __future__ import annotations

import copy
import hashlib
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

from flask import Blueprint, Response, current_app, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from flask_login import current_user
from flask_openapi3 import OpenAPI
from flask_wtf.csrf import generate_csrf
from markupsafe import Markup, escape
from pydantic.json_schema import JsonSchemaMode

from webapp.api import guide, once, problems, reference
from webapp.api.access import Opening
from webapp.api.base import ApiModel, answer
from webapp.api.reference import Area
from webapp.extensions import current_settings
from webapp.models import PersonRole
from webapp.settings import Settings

blueprint = Blueprint("api_document", __name__, url_prefix="/api")
problems.prepare(blueprint)

_EXTENSION = "switchhook.api_document"
_PAGES = "switchhook.api_pages"
_PAGES_KEPT = 8
"""Half a megabyte each."""
_METHODS = ("get", "post", "put", "patch", "delete")
_MADE, _KEEPING = threading.Lock(), threading.Lock()
_CODE = re.compile(r"`([^`]+)`")
_QUERY_CHARS = 100
_OPENED = 5
"""If no more operations than these are found, they are shown in full."""

_SECURITY = {
    "token": {"type": "http", "scheme": "bearer", "description": "An API token, such as `sh_…`."},
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "name": "switchhook",
        "description": "The session of a browser; what changes something also needs the header `X-CSRFToken`.",
    },
}
_HEADERS = {
    "X-Request-Id": ("The id of the call, also in the operator's log.", {"type": "string"}),
    "RateLimit-Limit": ("Calls in the present window.", {"type": "integer"}),
    "RateLimit-Remaining": ("How many of them are left.", {"type": "integer"}),
    "RateLimit-Reset": ("Seconds until the next window.", {"type": "integer"}),
    "Retry-After": ("Seconds after which the call may be tried again.", {"type": "integer"}),
    once.REPLAYED: ("`true`: this is the answer that the same call got before.", {"type": "string"}),
}
_ALWAYS = ("X-Request-Id", "RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset")
_KEY = {
    "name": once.HEADER,
    "in": "header",
    "required": False,
    "description": "The same call with the same key has one effect, and gets the same answer.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[\\x21-\\x7e]+$"},
    "example": "5f0c9a3e-7d1b-4b8e-9a51-3d6f0f2c8e11",
}


@dataclass(frozen=True, slots=True)
class Document:
    """The description in both forms."""

    raw: bytes
    tag: str
    """What changes with it."""
    areas: tuple[Area, ...]


# -- routes --------------------------------------------------------------------------------------------------------------
@blueprint.get("/")
def index() -> ResponseReturnValue:
    """Where to go on: the page for people, a list for programs."""
    if request.accept_mimetypes.best_match(["application/json", "text/html"]) == "text/html":
        return redirect(url_for("api_document.docs"), 303)
    found = document()
    areas = [{"name": area.title, "description": area.description, "operations": len(area.operations)} for area in found.areas]
    links = {"openapi": url_for("api_document.openapi"), "docs": url_for("api_document.docs")}
    return answer({"name": "Switchhook", **links, "areas": areas})


@blueprint.get("/openapi.json")
def openapi() -> Response:
    """The description for programs."""
    found = document()
    response = Response(found.raw, mimetype="application/json")
    response.headers["Cache-Control"] = "no-cache"
    response.set_etag(found.tag)
    return cast(Response, response.make_conditional(request))


@blueprint.get("/docs")
def docs() -> Response:
    """The description for people, with what fits the words in `q`."""
    page = _page()
    response = Response(page, mimetype="text/html")
    if not current_user.is_authenticated:
        # What somebody sees who is signed in has their name on it, and is in no cache.
        response.headers.update({"Cache-Control": "private, no-cache", "Vary": "Cookie"})
        # The token of the session is another one each time, and nothing on this page is sent with it.
        response.set_etag(hashlib.sha256(page.replace(generate_csrf(), "").encode()).hexdigest()[:32])
        response.make_conditional(request)
    return response


def _page() -> str:
    query = " ".join(request.args.get("q", "")[:_QUERY_CHARS].replace("\x00", " ").split())
    areas = [fitting for area in document().areas if (fitting := area.fitting(query)) is not None]
    count = sum(len(area.operations) for area in areas)
    return render_template(
        "api/docs.html",
        areas=areas,
        operations=_kept_operations(areas, query.lower(), opened=bool(query) and count <= _OPENED),
        query=query,
        count=count,
        sections=sections(current_settings()),
        errors=guide.ERRORS,
        marked=marked,
        inline=inline,
    )


def _kept_operations(areas: list[Area], query: str, *, opened: bool) -> Markup:
    """The long part of the page, which costs a tenth of a second to make: the last few are kept."""
    kept: OrderedDict[tuple[str, str], Markup] = current_app.extensions.setdefault(_PAGES, OrderedDict())
    key = _address(), query
    with _KEEPING:
        if (found := kept.get(key)) is not None:
            kept.move_to_end(key)
            return found
    made = _operations(areas, opened=opened)
    with _KEEPING:
        kept[key] = made
        while len(kept) > _PAGES_KEPT:
            kept.popitem(last=False)
    return made


def _operations(areas: list[Area], *, opened: bool) -> Markup:
    values = {"areas": areas, "opened": opened, "address": _address(), "marked": marked, "inline": inline}
    return Markup(render_template("api/_areas.html", **values))  # noqa: S704  (a template escapes)


def _address() -> str:
    return current_settings().public_url.rstrip("/") or request.host_url.rstrip("/")


def marked(text: str) -> Markup:
    """A text in paragraphs with code between backticks."""
    paragraphs = [part.strip() for part in text.split("\n\n") if part.strip()]
    return Markup("").join(Markup("<p>{}</p>").format(inline(part)) for part in paragraphs)


def inline(text: str) -> Markup:
    """One line of text with code between backticks."""
    return Markup(_CODE.sub(r"<code>\1</code>", str(escape(text))))  # noqa: S704  (escaped before)


def sections(settings: Settings) -> list[tuple[str, str]]:
    """The guide, with what is set here."""
    values = {
        "hours": f"{settings.api_answer_h:,}",
        "signed_in": f"{settings.throttle_signed_in_per_h:,}" if settings.throttle_signed_in_per_h else "Any number of",
        "anonymous": f"{settings.throttle_anonymous_per_h:,}" if settings.throttle_anonymous_per_h else "any number of them",
    }
    filled = re.compile(r"\{(\w+)\}")
    return [(title, filled.sub(lambda found: values[found[1]], text)) for title, text in guide.SECTIONS]


# -- making it -----------------------------------------------------------------------------------------------------------
def document() -> Document:
    """The description of the running application, made at the first call."""
    found = current_app.extensions.get(_EXTENSION)
    if found is None:
        with _MADE:
            found = current_app.extensions.get(_EXTENSION) or _make(cast(OpenAPI, current_app._get_current_object()))  # type: ignore[attr-defined]
            current_app.extensions[_EXTENSION] = found
    assert isinstance(found, Document)
    return found


def _make(app: OpenAPI) -> Document:
    spec = copy.deepcopy(app.api_doc)
    spec["info"]["description"] = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections(current_settings()))
    spec["servers"] = [{"url": current_settings().public_url.rstrip("/") or "/"}]
    components = spec.setdefault("components", {})
    components["securitySchemes"] = copy.deepcopy(_SECURITY)
    components["headers"] = {name: {"description": words, "schema": schema} for name, (words, schema) in _HEADERS.items()}
    _mend_schemas(spec)
    openings = dict(_openings(app))
    for path, item in spec["paths"].items():
        for method, operation in item.items():
            if method in _METHODS:
                _complete(operation, openings.get((method, path)))
    raw = json.dumps(spec, ensure_ascii=False, separators=(",", ":")).encode()
    return Document(raw, hashlib.sha256(raw).hexdigest()[:32], reference.areas(spec))


def _mend_schemas(spec: dict[str, Any]) -> None:
    """Put the models' own schemas into the document: flask-openapi3 leaves out what it does not know, such as examples."""
    schemas = spec["components"].setdefault("schemas", {})
    models = {model.__name__: model for model in _models(ApiModel)}
    sent = {
        medium["schema"]["$ref"].rpartition("/")[2]
        for item in spec["paths"].values()
        for operation in item.values()
        for medium in operation.get("requestBody", {}).get("content", {}).values()
        if "$ref" in medium["schema"]
    }
    known = [name for name in schemas if name in models]
    # What is both sent and answered is described as it may be sent, which fits both.
    for name in sorted(known, key=lambda name: name in sent):
        mode: JsonSchemaMode = "validation" if name in sent else "serialization"
        own = models[name].model_json_schema(ref_template="#/components/schemas/{model}", mode=mode)
        schemas |= own.pop("$defs", {})
        schemas[name] = own
    for schema in schemas.values():
        schema.pop("$defs", None)


def _models(above: type[ApiModel]) -> Iterator[type[ApiModel]]:
    for model in above.__subclasses__():
        yield model
        yield from _models(model)


def _openings(app: OpenAPI) -> Iterator[tuple[tuple[str, str], tuple[Opening, bool]]]:
    """(method, path as the document writes it) -> what opens the route, and whether it is `repeatable`."""
    for rule in app.url_map.iter_rules():
        view: Callable[..., Any] = app.view_functions[rule.endpoint]
        opening = getattr(view, "opening", None)
        if isinstance(opening, Opening):
            path = re.sub(r"<(?:[^<>:]*:)?([^<>]+)>", r"{\1}", rule.rule)
            for method in rule.methods or ():
                yield (method.lower(), path), (opening, bool(getattr(view, "repeatable", False)))


def _complete(operation: dict[str, Any], found: tuple[Opening, bool] | None) -> None:
    """Add what the routes say of themselves in another way."""
    operation["description"] = operation.get("description", "").replace("<br/>", "\n")
    for parameter in operation.get("parameters", ()):
        parameter["schema"] = {
            # flask-openapi3 makes bounds of whole numbers fractions.
            name: int(value) if isinstance(value, float) and value.is_integer() else value
            for name, value in _without_null(parameter.get("schema", {})).items()
        }
    responses = operation["responses"] = dict(sorted(operation["responses"].items()))
    names = list(_ALWAYS)
    if found is not None:
        opening, repeatable = found
        scopes = [*sorted(opening.scopes - {"admin"}), "admin"]
        operation["x-scopes"] = scopes if opening.role == PersonRole.MEMBER else ["admin"]
        operation["x-role"] = str(opening.role)
        operation["security"] = [{"token": [scope]} for scope in operation["x-scopes"]] + [{"session": []}]
        if repeatable:
            operation.setdefault("parameters", []).append(copy.deepcopy(_KEY))
            names.append(once.REPLAYED)
    if "requestBody" not in operation:
        for status in ("413", "415"):
            responses.pop(status, None)
    for status, response in responses.items():
        more = ["Retry-After"] if status in ("409", "429", "503") else []
        headers = response.setdefault("headers", {}) or {}
        response["headers"] = {name: {"$ref": f"#/components/headers/{name}"} for name in names + more} | headers


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter is there or it is not: it cannot be null."""
    options = schema.get("anyOf")
    if not isinstance(options, list) or {"type": "null"} not in options:
        return schema
    left = [option for option in options if option != {"type": "null"}]
    rest = {name: value for name, value in schema.items() if name != "anyOf" and (name, value) != ("default", None)}
    return left[0] | rest if len(left) == 1 else {"anyOf": left} | rest
