"""What every part of the REST API shares: models, areas, pages by cursor, and how a body is read."""

from __future__ import annotations

import base64
import codecs
import functools
import json
import math
import re
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

from flask import Request, Response, request
from flask_openapi3 import APIBlueprint, Tag
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, Strict, StringConstraints, create_model
from werkzeug.exceptions import UnsupportedMediaType

from webapp.api import access, problems
from webapp.api.problems import BadJson, Problem
from webapp.contracts.errors import BadInput
from webapp.extensions import current_settings

PAGE, PAGE_MAX = 20, 100

Text = Annotated[str, Strict(), StringConstraints(pattern=r"^[^\x00]*$")]
"""A text without NUL, which PostgreSQL does not store."""
Whole = Annotated[int, Strict()]
Flag = Annotated[bool, Strict()]
_NUMBER = re.compile(r"[+-]?[0-9_]*\.?[0-9_]*(?:[eE][+-]?[0-9]+)?")


def _aware(moment: datetime) -> datetime:
    try:
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError:
        # At the ends of the calendar there is no such time in UTC.
        raise ValueError("there is no such moment in UTC") from None


def _written(moment: object) -> object:
    # pydantic takes numbers, also in texts, for seconds since 1970.
    if not isinstance(moment, datetime | str) or _NUMBER.fullmatch(str(moment).strip()):
        raise ValueError("write the moment in ISO 8601, such as 2027-01-04T12:00:00Z")
    return moment


Moment = Annotated[datetime, BeforeValidator(_written), AfterValidator(_aware)]
"""A moment in ISO 8601; without a zone it is UTC."""


def moment_of(text: str) -> datetime:
    """A moment as a cursor holds it, aware and in UTC. `ValueError` for what is none."""
    return _aware(datetime.fromisoformat(text))


Model = TypeVar("Model", bound=BaseModel)


class ApiModel(BaseModel):
    """What goes in or out. Unknown members are refused: a misspelled one must not be lost in silence."""

    model_config = ConfigDict(extra="forbid")

    # flask-openapi3 asks for the schema of a query's model at each request, which costs more than the request.
    @classmethod
    def model_json_schema(cls, *args: Any, **options: Any) -> dict[str, Any]:
        return super().model_json_schema(*args, **options) if args or options else cls._plain_schema()

    @classmethod
    @functools.cache
    def _plain_schema(cls) -> dict[str, Any]:
        return super().model_json_schema()


class PageQuery(ApiModel):
    """What every list takes."""

    cursor: Text | None = Field(
        None, max_length=500, description="`next_cursor` of the page before; without it, the first page."
    )
    limit: int = Field(PAGE, ge=1, le=PAGE_MAX, description="How many to return at most.")
    total: bool = Field(False, description="Whether to count all that fit, which takes time where there are many.")


def page_of(model: type[BaseModel]) -> type[ApiModel]:
    """The model of a page of `model`."""
    return create_model(
        f"{model.__name__}Page",
        __base__=ApiModel,
        items=(list[model], ...),  # type: ignore[valid-type]
        next_cursor=(str | None, Field(None, description="Give it as `cursor` for the next page; null on the last one.")),
        total=(int | None, Field(None, description="How many there are in all, where `total` was asked for.")),
    )


def area(name: str, title: str, description: str) -> APIBlueprint:
    """A part of `/api` with a tag of its own. Each route says by `access.opens` who may use it."""
    blueprint = APIBlueprint(
        f"api_{name}",
        __name__,
        url_prefix="/api",
        abp_tags=[Tag(name=title, description=description)],
        abp_security=[{"token": []}, {"session": []}],
        abp_responses={status: problems.response(words) for status, words in problems.COMMON.items()},
        operation_id_callback=_operation_id,
    )
    access.guard(blueprint)
    problems.prepare(blueprint)
    return blueprint


def _operation_id(*, name: str, path: str, method: str) -> str:  # noqa: ARG001
    return name


# -- answers -----------------------------------------------------------------------------------------------------------
def answer(value: BaseModel | Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A value as JSON that no cache keeps."""
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else _plain(value)
    response = Response(json.dumps(plain, ensure_ascii=False, separators=(",", ":")), status, mimetype="application/json")
    response.headers["Cache-Control"] = "no-store"
    response.headers.update(headers or {})
    return response


def nothing() -> Response:
    """204: done, and there is nothing to tell."""
    return Response(status=204, headers={"Cache-Control": "no-store"})


def page_answer(items: Iterable[BaseModel], next_cursor: str | None, total: int | None = None) -> Response:
    """A page of a list."""
    return answer({"items": [item.model_dump(mode="json") for item in items], "next_cursor": next_cursor, "total": total})


def _plain(value: object) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(each) for each in value]
    return value


# -- cursors -----------------------------------------------------------------------------------------------------------
def make_cursor(*parts: object) -> str:
    """A cursor of the values by which a list is ordered, of its last line. Opaque to programs."""
    plain = [part.isoformat() if isinstance(part, datetime) else str(part) for part in parts]
    return base64.urlsafe_b64encode(json.dumps(plain, separators=(",", ":")).encode()).decode().rstrip("=")


def read_cursor(cursor: str | None, *kinds: Callable[[str], Any]) -> tuple[Any, ...] | None:
    """The values in a cursor, each by its kind (`uuid.UUID`, `moment_of`, `str`, `int`); None without a cursor.
    `BadInput` for one that we did not make."""
    if cursor is None:
        return None
    try:
        parts = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        if not isinstance(parts, list) or len(parts) != len(kinds) or not all(isinstance(part, str) for part in parts):
            raise ValueError
        return tuple(kind(part) for kind, part in zip(kinds, parts, strict=True))
    except (ValueError, TypeError, OverflowError, RecursionError) as exc:
        raise BadInput("cursor", "This is no cursor of this list: take `next_cursor` of an earlier page.") from exc


# -- bodies ------------------------------------------------------------------------------------------------------------
_DEEPEST = 64
NAMES_MAX = 1_000
"""Names of one object."""
ITEMS_MAX = 10_000
"""Items of one list, but for the rows of a batch."""
VALUES_MAX = 100_000
"""Values in a body, all in all. The bounds keep what a body costs before it is refused near a second of processor."""
FEW_VALUES, BATCH_VALUES = 20_000, 500_000
"""The same where neither pictures nor conversations are sent, and for the rows of batches, in which nothing is looked at."""
SMALL_BODY = 1024 * 1024
"""Bytes of a body where neither pictures nor batches nor conversations are sent."""
_BATCHES = "/api/batches"
_LARGE = ("/v1/", _BATCHES, "/api/tasks", "/api/generation", "/api/templates")
_STRUCTURE = (b",", b"[", b"{")
# What PostgreSQL and UTF-8 cannot hold, as JSON writes it: NUL, and halves of surrogate pairs (or whole ones).
_SUSPECT = re.compile(r"\\u(?:0000|[dD][89a-fA-F])")
_LONE = re.compile("[\x00\ud800-\udfff]")
_BLANKS = " \t\n\r"
"""What may stand around a JSON document."""


class ApiRequest(Request):
    """A request whose body, where it goes to an API, is read strictly."""

    def get_json(self, force: bool = False, silent: bool = False, cache: bool = True) -> Any:
        """The body as JSON. Of an API's, as `read_json` does, whatever is asked for."""
        if not is_api(self.path):
            return super().get_json(force=force, silent=silent, cache=cache)
        found = read_json()
        if isinstance(found, str):
            # flask-openapi3 would read what is in the text once more.
            raise BadInput("body", "body: the body is a text: send a JSON object.")
        return found


def is_api(path: str) -> bool:
    """Whether a path is one of the APIs'."""
    return path.startswith(("/api/", "/v1/")) or path in ("/api", "/v1")


def read_json() -> Any:
    """The body of the call as JSON, read strictly; None for an empty body.

    Raises `BadJson` for what is no JSON in UTF-8, has a name twice in an object, or is nested more than 64 deep; `BadInput` for
    texts that cannot be stored; werkzeug's errors for another type of content and for a body that is too large.
    """
    raw = request.get_data(cache=True)
    if not raw:
        return None
    if not request.is_json:
        raise UnsupportedMediaType("Send the body as JSON, with the header Content-Type: application/json.")
    if request.path.startswith(_BATCHES):
        # One more is let in, for the refusal that knows what rows are.
        return parse_json(raw, BATCH_VALUES, max(ITEMS_MAX, current_settings().batch_rows_max + 1))
    return parse_json(raw, VALUES_MAX if takes_large(request.path) else FEW_VALUES)


def takes_large(path: str) -> bool:
    """Whether pictures, batches, templates or conversations are sent to a path of an API: all else fits in `SMALL_BODY`."""
    return path.startswith(_LARGE)


def parse_json(raw: bytes, values_max: int = VALUES_MAX, items_max: int = ITEMS_MAX) -> Any:
    """A body as JSON, read strictly. Raises `BadJson` and `BadInput` as `read_json` does."""
    if len(raw) > values_max and _has_more_values(raw, values_max):
        raise BadJson("body", f"The body has too many values: at most {values_max:,} are read.")
    try:
        text = str(raw.removeprefix(codecs.BOM_UTF8), "utf-8").strip(_BLANKS)
        found, end = _strictly.raw_decode(text)
        if end != len(text):
            raise ValueError("There is something after the document.")
    except _Twice as exc:
        raise BadJson("body", f"The name {str(exc)[:80]!r} is twice in the same object: give it once.") from exc
    except _TooMany as exc:
        raise BadJson("body", f"An object in the body has more than {NAMES_MAX:,} names: send fewer.") from exc
    except (ValueError, RecursionError) as exc:
        raise BadJson("body", "The body is not JSON: send a JSON document in UTF-8.") from exc
    # No list has more items than the body has bytes, and nothing is nested deeper than there are brackets.
    if len(raw) > items_max or raw.count(b"[") + raw.count(b"{") > _DEEPEST:
        _check_extent(found, items_max)
    if "\\u" in text and _SUSPECT.search(text) and (where := _unstorable(found)) is not None:
        raise BadInput(where or "body", f"{where or 'body'}: a text has a NUL or half a character in it: leave that out.")
    return found


def _check_extent(found: object, items_max: int) -> None:
    depth, longest = _extent(found)
    if depth > _DEEPEST:
        raise BadJson("body", f"The body is nested too deeply: at most {_DEEPEST} levels are read.")
    if longest > items_max:
        raise BadJson("body", f"A list in the body has more than {items_max:,} items: send fewer at once.")


def _has_more_values(raw: bytes, most: int) -> bool:
    """Whether a JSON text has more than so many values, found without making them: each is the first one of a list or an
    object, or has a comma before it."""
    if sum(map(raw.count, _STRUCTURE)) < most:
        return False
    # Only what is between the strings counts: the second, fourth… parts between quotation marks are texts.
    bare = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    if bare.count(b'"') > 4 * most:
        return True
    return sum(map(b"".join(bare.split(b'"')[::2]).count, _STRUCTURE)) >= most


def _unstorable(found: object) -> str | None:
    """Where a text is that cannot be stored, as `rows.3.text`; None for nowhere."""
    left: list[tuple[str, object]] = [("", found)]
    while left:
        where, value = left.pop()
        if isinstance(value, str) and _LONE.search(value):
            return where
        if isinstance(value, dict):
            for name, each in value.items():
                if _LONE.search(name):
                    return where
                left.append((f"{where}.{name}".lstrip("."), each))
        elif isinstance(value, list):
            left += [(f"{where}.{index}".lstrip("."), each) for index, each in enumerate(value)]
    return None


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


class _Twice(Exception):
    pass


class _TooMany(Exception):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    number = len(pairs)
    if number > NAMES_MAX:
        raise _TooMany
    found = dict(pairs)
    if len(found) != number:
        seen: set[str] = set()
        raise _Twice(next(name for name, _ in pairs if name in seen or seen.add(name)))  # type: ignore[func-returns-value]
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(name)


_strictly = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite)


def _extent(value: object) -> tuple[int, int]:
    """How deep a value is nested, and how many items its longest list has."""
    depth, longest, level = 0, 0, [value]
    while level:
        depth += 1
        if depth > _DEEPEST:
            break
        longest = max(longest, max((len(each) for each in level if isinstance(each, list)), default=0))
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
            if isinstance(inner, dict | list)
        ]
    return depth, longest


__all__ = [
    "PAGE",
    "PAGE_MAX",
    "ApiModel",
    "ApiRequest",
    "BadJson",
    "Flag",
    "Moment",
    "PageQuery",
    "Problem",
    "Text",
    "Whole",
    "answer",
    "area",
    "is_api",
    "make_cursor",
    "moment_of",
    "nothing",
    "page_answer",
    "page_of",
    "read_cursor",
    "read_json",
]
