"""API tokens: one's own, and those of others for whoever has to end one."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any, Literal

from flask import Response, url_for
from pydantic import ConfigDict, Field

from webapp.api import access, once, task_answers
from webapp.api.base import (
    ApiModel,
    PageQuery,
    Text,
    Whole,
    answer,
    area,
    make_cursor,
    nothing,
    page_answer,
    page_of,
    read_cursor,
)
from webapp.contracts.limits import MAXIMUM, Dimension, StoredLimit, Window
from webapp.models import PersonRole
from webapp.services import amounts, member_tokens, person_views, personal_tokens
from webapp.services.limits import Typed
from webapp.services.personal_tokens import DAYS_MAX, Maker, NewToken, TokenView

blueprint = area("tokens", "Tokens", "Tokens for programs: one's own, and for managers and administrators those of others.")

SCOPES = Literal["chat", "read", "write", "admin", "sms"]
_MAXIMUM = "A whole number; of cost in micro-dollars, of credits in milli-credits."


class TokenPath(ApiModel):
    """The address of a token."""

    token_id: uuid.UUID


class TokensOfPath(ApiModel):
    """Whose tokens."""

    who: Text = Field(max_length=100, description="An id, a phone number with its country code (`%2B15005550006`), or `me`.")


class TokenOfPath(TokensOfPath):
    """The address of somebody's token."""

    token_id: uuid.UUID


class TokenLimitWanted(ApiModel):
    """A limit of a token alone."""

    dimension: Dimension
    window: Window
    maximum: Whole = Field(ge=0, le=MAXIMUM, description=_MAXIMUM)
    provider: Text = Field("", max_length=40, description="Only what is used there counts; empty: everything.")
    operation: Text = Field("", max_length=40, description="Only this kind of work counts; empty: every kind.")
    label: Text = Field("", max_length=60, description="How one is told about it.")


class TokenLimit(ApiModel):
    """A limit of a token alone."""

    id: str
    dimension: Dimension
    window: Window
    maximum: int = Field(description=_MAXIMUM)
    provider: str
    operation: str
    label: str

    @classmethod
    def of(cls, limit: StoredLimit) -> TokenLimit:
        """A limit as it is told."""
        return cls(**{name: getattr(limit, name) for name in cls.model_fields})


class Token(ApiModel):
    """A token, without what it proves itself by."""

    id: uuid.UUID
    name: str
    prefix: str = Field(description="How it begins.")
    scopes: list[str]
    organization_id: uuid.UUID | None = Field(description="Where it works; null: wherever its owner does.")
    limits: list[TokenLimit]
    state: Literal["active", "expired", "revoked"]
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None

    @classmethod
    def of(cls, view: TokenView) -> Token:
        """A token as it is told."""
        return cls(**_plain(view))


TokenPage = page_of(Token)


class TokenMade(Token):
    """A new token: this answer alone has it in clear."""

    token: str = Field(description="Keep it: it cannot be read again.")


class TokenWanted(ApiModel):
    """A token to be made."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "name": "Nightly report",
                    "scopes": ["chat", "read"],
                    "days": 90,
                    "limits": [{"dimension": "cost", "window": "month", "maximum": 5_000_000}],
                }
            ]
        },
    )

    name: Text = Field(min_length=1, max_length=255, description="What it is for, so that one knows it again.")
    scopes: list[SCOPES] = Field(min_length=1, max_length=5, description="What it opens, at most what the caller's opens.")
    days: Whole | None = Field(None, ge=1, le=DAYS_MAX, description="How long it lives; null: without an end.")
    organization_id: uuid.UUID | None = Field(None, description="Where it works, one of one's own; null: wherever one does.")
    limits: list[TokenLimitWanted] = Field([], max_length=50, description="Limits of this token alone.")


@blueprint.get("/tokens", summary="List one's tokens", responses={200: TokenPage})
@access.opens("read")
def list_tokens(query: PageQuery) -> Response:
    """All tokens that one ever had, the latest first."""
    me, after = access.caller().id, read_cursor(query.cursor, uuid.UUID)
    lines, next_id = personal_tokens.rows(me, after[0] if after else None, query.limit)
    total = personal_tokens.total(me) if query.total else None
    return page_answer(map(Token.of, lines), make_cursor(next_id) if next_id else None, total)


@blueprint.post("/tokens", summary="Make a token", responses={201: TokenMade})
@once.repeatable
@access.opens("write")
def create_token(body: TokenWanted) -> Response:
    """Make a token for oneself. What a token makes is no stronger than it: no further scopes, the same organization, no later
    end. The scope `admin` is for managers and administrators, `sms` for administrators of the installation."""
    caller = access.caller()
    limits = [
        Typed(
            amounts.typed(each.maximum, each.dimension),
            each.dimension,
            each.window,
            each.provider,
            each.operation,
            label=each.label,
        )
        for each in body.limits
    ]
    maker = Maker(caller.id, caller.organization_id, caller.scopes, caller.token_id)
    clear, view = personal_tokens.create(maker, NewToken(body.name, body.scopes, body.days, body.organization_id, limits))
    made = TokenMade(**_plain(view), token=clear)
    return answer(made, 201, {"Location": url_for("api_tokens.read_token", token_id=view.id)})


@blueprint.get("/tokens/<token_id>", summary="Read a token", responses={200: Token})
@access.opens("read")
def read_token(path: TokenPath) -> Response:
    """One of one's own tokens."""
    return answer(Token.of(personal_tokens.show(access.caller().id, path.token_id)))


@blueprint.delete("/tokens/<token_id>", summary="Revoke a token", responses={204: None})
@access.opens("write")
def revoke_token(path: TokenPath) -> Response:
    """End one of one's own tokens at once. Doing it again changes nothing. An answer that is being streamed goes on to its
    end."""
    personal_tokens.revoke(access.caller().id, path.token_id)
    return nothing()


@blueprint.get("/users/<who>/tokens", summary="List a person's tokens", responses={200: TokenPage})
@access.opens("admin", role=PersonRole.MANAGER)
def list_tokens_of_user(path: TokensOfPath, query: PageQuery) -> Response:
    """The tokens that somebody ever had, the latest first: for managers those that work in their organization, for
    administrators of the installation all."""
    caller, (person_id, place) = access.caller(), _whose(path)
    after = read_cursor(query.cursor, uuid.UUID)
    lines, next_id = member_tokens.rows(caller.actor, person_id, place, after[0] if after else None, query.limit)
    total = member_tokens.total(caller.actor, person_id, place) if query.total else None
    return page_answer(map(Token.of, lines), make_cursor(next_id) if next_id else None, total)


@blueprint.delete("/users/<who>/tokens/<token_id>", summary="Revoke a person's token", responses={204: None})
@access.opens("admin", role=PersonRole.MANAGER)
def revoke_token_of_user(path: TokenOfPath) -> Response:
    """End a token of somebody at once, such as one that has leaked: managers those of members that work in their organization,
    administrators of the installation any. Doing it again changes nothing. An answer that is being streamed goes on to its
    end."""
    person_id, place = _whose(path)
    member_tokens.revoke(access.caller().actor, person_id, path.token_id, place)
    return nothing()


def _whose(path: TokensOfPath) -> tuple[uuid.UUID, uuid.UUID | None]:
    """The person, and the organization in which their tokens are seen, None for all."""
    caller = access.caller()
    view = person_views.find(task_answers.visible(caller), path.who)
    return view.id, None if caller.is_admin else caller.organization_id


def _plain(view: TokenView) -> dict[str, Any]:
    plain: dict[str, Any] = {name: getattr(view, name) for name in Token.model_fields}
    return plain | {"scopes": list(view.scopes), "limits": [TokenLimit.of(limit) for limit in view.limits]}
