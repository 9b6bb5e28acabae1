"""From stored values to what a page shows: Markdown, money, times, and the addresses of static files."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import nh3
from flask import Flask, current_app, url_for
from flask_login import current_user
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup, escape
from pygments import highlight as pygments_highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

from webapp.contracts.limits import Dimension
from webapp.contracts.money import format_microusd
from webapp.contracts.rounding import rounded_microusd
from webapp.registry import current_registry

log = logging.getLogger(__name__)

MARKDOWN_MAX_CHARS = 60_000
"""Longer answers are shown as plain text: 14,000 characters take about 28 ms."""
_BRACKETS_MAX = 2000
"""Each opening bracket is tried as a link to the end of the text, so 50,000 of them would take three seconds."""
_HIGHLIGHT_MAX_CHARS = 20_000

# Rendering is pure processor time. Many threads at it at once only slow each other, and the streams beside them.
_rendering = threading.BoundedSemaphore(2)

_TAGS = {
    *("p", "br", "hr", "blockquote", "strong", "em", "s", "code", "pre", "span", "a", "ul", "ol", "li", "div"),
    *("h2", "h3", "h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td"),
}
_ATTRIBUTES = {"a": {"href", "title", "target"}, "ol": {"start"}, "code": {"class"}, "span": {"class"}}
_VALUES = {
    "div": {"class": {"table"}, "tabindex": {"0"}, "role": {"group"}, "aria-label": {"Table"}},
    "th": {"class": {"right", "center"}},
    "td": {"class": {"right", "center"}},
}
_SET = {"a": {"target": "_blank"}, "pre": {"tabindex": "0"}}


def _highlight(code: str, language: str, _attrs: str) -> str:
    """HTML of a code block with classes for its colours, or '' to have it shown plain."""
    if not language or len(code) > _HIGHLIGHT_MAX_CHARS:
        return ""
    try:
        lexer = get_lexer_by_name(language)
    except ClassNotFound:
        return ""
    return str(pygments_highlight(code, lexer, HtmlFormatter(nowrap=True, classprefix="hl-")))


def _image(_self: Any, tokens: Sequence[Token], index: int, _options: Any, _env: Any) -> str:
    """An image as a link: loading it would tell its host who reads, and when."""
    token = tokens[index]
    source = str(token.attrs.get("src", ""))
    return f'<a href="{escape(source)}">{escape(token.content or source or "image")}</a>'


def _table_open(_self: Any, _tokens: Sequence[Token], _index: int, _options: Any, _env: Any) -> str:
    return '<div class="table" tabindex="0" role="group" aria-label="Table"><table>\n'


def _table_close(_self: Any, _tokens: Sequence[Token], _index: int, _options: Any, _env: Any) -> str:
    return "</table></div>\n"


def _headings_below_the_page(state: Any) -> None:
    """A heading in an answer is below the page's own; and a column's alignment is a class, for styles are not allowed."""
    for n, token in enumerate(state.tokens):
        if token.type == "th_open" and not state.tokens[n + 1].content.strip():
            # The corner of a table names nothing: as a heading it would be read out as an empty one.
            token.tag = state.tokens[n + 2].tag = "td"
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1]) + 1)}"
        elif token.type in ("th_open", "td_open"):
            style = str(token.attrs.pop("style", ""))
            side = style.removeprefix("text-align:")
            if side in ("right", "center"):
                token.attrs["class"] = side


def _parser() -> MarkdownIt:
    parser = MarkdownIt("js-default", {"html": False, "highlight": _highlight})
    parser.add_render_rule("image", _image)
    parser.add_render_rule("table_open", _table_open)
    parser.add_render_rule("table_close", _table_close)
    parser.core.ruler.push("headings_below_the_page", _headings_below_the_page)
    return parser


_markdown = _parser()


def markdown(text: str) -> Markup:
    """An answer's Markdown as safe HTML. Raw HTML in it is shown as text, images become links, links open elsewhere."""
    if len(text) > MARKDOWN_MAX_CHARS or text.count("[") > _BRACKETS_MAX:
        return _plain(text)
    return _rendered(text)


@lru_cache(maxsize=128)
def _rendered(text: str) -> Markup:
    try:
        with _rendering:
            return Markup(_sanitized(_markdown.render(text)))  # noqa: S704 - sanitized on this very line
    except Exception:
        # Whatever a model wrote, its reader gets to read it.
        log.exception("an answer could not be rendered")
        return _plain(text)


def _sanitized(html: str) -> str:
    return nh3.clean(
        html,
        tags=_TAGS,
        attributes=_ATTRIBUTES,
        tag_attribute_values=_VALUES,
        set_tag_attribute_values=_SET,
        link_rel="noopener noreferrer nofollow",
        url_schemes={"http", "https", "mailto"},
        url_relative="deny",
    )


def _plain(text: str) -> Markup:
    return Markup('<div class="plain">{}</div>').format(text)


def amount(value: int, dimension: Dimension, left: bool = False) -> str:
    """A number of a limit's dimension for people; of what is `left` never more than there is."""
    if dimension is Dimension.COST:
        return rounded_microusd(value, left=True) if left else format_microusd(value)
    return f"{value / 1000:,.10g}" if dimension is Dimension.CREDITS else f"{value:,}"


def seconds(value: float | None) -> str:
    """A duration for people: '0.4 s', '12 s', '2 min 5 s'; '' for none."""
    if value is None:
        return ""
    if value < 10:
        return f"{value:.1f} s"
    if value < 120:
        return f"{value:.0f} s"
    return f"{int(value) // 60} min {int(value) % 60} s"


def _zone() -> ZoneInfo:
    """The time zone in which the reader thinks."""
    if not current_user.is_authenticated:
        return ZoneInfo("UTC")
    return ZoneInfo(current_user.time_zone or current_user.organization.time_zone)


def moment(value: datetime) -> Markup:
    """A `<time>` element in the reader's time zone."""
    local = value.astimezone(_zone())
    today = datetime.now(local.tzinfo).date()
    text = f"{local:%H:%M}" if local.date() == today else f"{local.day} {local:%b %Y}, {local:%H:%M}"
    if not current_user.is_authenticated:
        # Whose zone it is cannot be known.
        text += f" {local:%Z}"
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        value.isoformat(timespec="seconds"), f"{local:%Y-%m-%d %H:%M:%S %Z}", text
    )


def clock(value: datetime) -> str:
    """The time of day, to the millisecond."""
    local = value.astimezone(_zone())
    return f"{local:%H:%M:%S}.{local.microsecond // 1000:03d}"


def as_of(value: datetime) -> str:
    """The time of day with its zone, for figures that renew themselves."""
    return f"{value.astimezone(_zone()):%H:%M:%S %Z}"


def asset(name: str) -> str:
    """The address of a file in `static/`, with a digest that changes when the file does."""
    return url_for("static", filename=name, v=_digest(str(current_app.static_folder), name))


@lru_cache(maxsize=64)
def _digest(folder: str, name: str) -> str:
    return hashlib.sha256((Path(folder) / name).read_bytes()).hexdigest()[:12]


def is_demo(provider: str | None) -> bool:
    """Whether an answer comes from a provider without a model."""
    found = current_registry().providers.get(provider or "")
    return found is not None and found.demo


def prepare(app: Flask) -> None:
    """Give the templates what they call."""
    app.jinja_env.filters.update(
        markdown=markdown, money=format_microusd, amount=amount, seconds=seconds, moment=moment, clock=clock, as_of=as_of
    )
    app.jinja_env.globals.update(asset=asset, is_demo=is_demo)
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
