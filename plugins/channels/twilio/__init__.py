"""SMS by Twilio: signed webhooks in, the REST API out. It needs no more of Twilio than its wire format."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote, urljoin, urlsplit

from plugins.channels.twilio import signature, wire
from webapp.plugin import (
    Channel,
    Health,
    InboundMessage,
    Inbox,
    OutboundMessage,
    Receipt,
    SendFailed,
    SendUnknown,
    Sent,
    Variable,
    clean,
    hookimpl,
)

if TYPE_CHECKING:
    import httpx
    from flask import Blueprint

SWITCHHOOK_CONTRACT = 1

API = "https://api.twilio.com"

CONNECT_S, READ_S = 5.0, 15.0
PAGE_SIZE, MAX_PAGES = 200, 5
# Twilio writes whole seconds, and its machines do not agree to the millisecond.
CLOCK_SLACK_S = 5.0


class TwilioChannel(Channel):
    """SMS by Twilio. Immutable once made; every method may be called from many threads."""

    name = wire.NAME
    medium = "sms"
    max_chars = 1600
    environment: ClassVar[tuple[Variable, ...]] = (
        Variable("TWILIO_ACCOUNT_SID", "The account (AC…)."),
        Variable("TWILIO_AUTH_TOKEN", "The account's token: proves webhooks, and sends unless an API key does.", secret=True),
        Variable("TWILIO_AUTH_TOKEN_SECONDARY", "A second token webhooks may be signed with, during rotation.", secret=True),
        Variable("TWILIO_SHARED_KEY_SECRET", "Webhooks are signed with this shared key (HMAC-SHA256) only.", secret=True),
        Variable("TWILIO_API_KEY", "An API key (SK…) to send with, in place of the token."),
        Variable("TWILIO_API_KEY_SECRET", "The secret of that API key.", secret=True),
        Variable("TWILIO_PHONE_NUMBER", "The number to send from, E.164; several with commas, the first by default."),
        Variable("TWILIO_MESSAGING_SERVICE_SID", "A messaging service (MG…) to send by."),
        Variable("TWILIO_API_BASE_URL", "Where the API is; for tests and proxies.", default=API),
        Variable(
            "TWILIO_OPT_OUT_REPLIES",
            "Who answers STOP, START and HELP: 'twilio' (its default), or 'app' where that is switched off there.",
            default="twilio",
        ),
    )

    def __init__(self, settings: Mapping[str, str]) -> None:
        def get(name: str, default: str = "") -> str:
            return settings.get(name, "").strip() or default

        self.account_sid = get("TWILIO_ACCOUNT_SID")
        self.auth_token = get("TWILIO_AUTH_TOKEN")
        self.api_key = get("TWILIO_API_KEY")
        self.api_key_secret = get("TWILIO_API_KEY_SECRET")
        self.numbers = tuple(filter(None, map(_number, get("TWILIO_PHONE_NUMBER").split(","))))
        self.service_sid = get("TWILIO_MESSAGING_SERVICE_SID")
        self.base_url = get("TWILIO_API_BASE_URL", API).rstrip("/")
        self.public_url = get("SWITCHHOOK_PUBLIC_URL").rstrip("/")
        self.opt_out_replies = get("TWILIO_OPT_OUT_REPLIES", "twilio").lower()
        self.answers_consent_words = self.opt_out_replies != "app"
        self.keys = self._keys(get("TWILIO_AUTH_TOKEN_SECONDARY"), get("TWILIO_SHARED_KEY_SECRET"))

    def _keys(self, secondary: str, shared: str) -> tuple[signature.Key, ...]:
        # Once a shared key is set, nothing in the request may choose the weaker SHA-1.
        if shared:
            return (signature.Key(shared, "sha256"),)
        return tuple(signature.Key(token) for token in (self.auth_token, secondary) if token)

    def missing(self) -> str:
        wanted = []
        if not self.account_sid:
            wanted.append("TWILIO_ACCOUNT_SID")
        if self.api_key and not self.api_key_secret:
            wanted.append("TWILIO_API_KEY_SECRET")
        elif not self.api_key and not self.auth_token:
            wanted.append("TWILIO_AUTH_TOKEN")
        if not self.numbers and not self.service_sid:
            wanted.append("TWILIO_PHONE_NUMBER (or TWILIO_MESSAGING_SERVICE_SID)")
        if wanted:
            names = wanted[0] if len(wanted) == 1 else f"{', '.join(wanted[:-1])} and {wanted[-1]}"
            return f"{names} {'is' if len(wanted) == 1 else 'are'} not set"
        if self.opt_out_replies not in ("twilio", "app"):
            return "TWILIO_OPT_OUT_REPLIES must be 'twilio' or 'app'"
        return ""

    # -- in --------------------------------------------------------------------------------------------------------
    def verify(self, url: str, pairs: Iterable[tuple[str, str]], header: str) -> bool:
        """Whether Twilio signed a form with these pairs (decoded, all of them, in any order) for `url`."""
        return bool(header) and signature.verify(url, pairs, header, self.keys)

    def verify_json(self, url: str, body: bytes, body_sha256: str, header: str) -> bool:
        """Whether Twilio signed this JSON body; `body_sha256` is the parameter of that name in `url`."""
        return bool(header) and signature.verify_json(url, body, body_sha256, header, self.keys)

    def parse_message(self, form: Mapping[str, str]) -> InboundMessage:
        """The message in an inbound webhook's form. Raises `BadInput` naming the field."""
        return wire.parse_message(form)

    def parse_receipt(self, form: Mapping[str, str]) -> Receipt:
        """The receipt in a status webhook's form. Raises `BadInput` naming the field."""
        return wire.parse_receipt(form)

    def webhook_url(self, *, seen_root: str, mount: str, path: str, query: str) -> str:
        """The address under which Twilio called `path`: the public one if it is set, else the one we see.

        `seen_root` is scheme and host as they reached us. `mount` is the prefix the application is served under, which
        the public address may or may not name. `path` and `query` are raw.
        """
        root = self.public_url or seen_root
        if not self.public_url or not urlsplit(root).path.endswith(mount):
            root += mount
        return root + path + (f"?{query}" if query else "")

    def blueprint(self, inbox: Inbox) -> Blueprint:
        from plugins.channels.twilio.webhook import routes

        return routes(self, inbox)

    def status_path(self) -> str:
        return wire.STATUS_PATH

    # -- out -------------------------------------------------------------------------------------------------------
    def send(self, message: OutboundMessage, http: httpx.Client) -> Sent:
        import httpx

        if gap := self.missing():
            raise SendFailed(f"{gap}.", permanent=True)
        try:
            response = self._call(http, "POST", f"{self._account_url}/Messages.json", data=self._form(message))
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError) as exc:
            raise SendFailed(f"Twilio cannot be reached ({type(exc).__name__}).", permanent=False) from exc
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as exc:
            raise SendFailed("TWILIO_API_BASE_URL is not an http or https address.", permanent=True) from exc
        except httpx.HTTPError as exc:
            raise SendUnknown(
                f"The connection to Twilio failed on the way ({type(exc).__name__}): the message may have been sent."
            ) from exc
        answer = _json(response)
        if response.is_success:
            return wire.parse_sent(answer)
        raise wire.failure(response.status_code, answer, response.headers.get("Retry-After", ""), _now(response))

    def find_sent(self, message: OutboundMessage, since_s: float, http: httpx.Client) -> Sent | None:
        import httpx

        # No DateSent filter: a message that still waits in Twilio's queue has no such date, and would be missed.
        url = f"{self._account_url}/Messages.json?To={quote(message.recipient, safe='')}&PageSize={PAGE_SIZE}"
        for _ in range(MAX_PAGES):
            try:
                response = self._call(http, "GET", url)
            except (httpx.HTTPError, httpx.InvalidURL) as exc:
                raise SendUnknown(f"Twilio could not be asked what it sent ({type(exc).__name__}).") from exc
            page = _json(response)
            listed = page.get("messages") if isinstance(page, dict) else None
            if not response.is_success or not isinstance(listed, list):
                raise SendUnknown(f"Twilio did not say what it sent (HTTP {response.status_code}).")
            since = _now(response) - timedelta(seconds=since_s + CLOCK_SLACK_S)
            for entry in listed:
                if isinstance(entry, dict) and wire.is_ours(entry, message.recipient, message.text, since):
                    return wire.parse_sent(entry)
            following = page.get("next_page_uri")
            if not listed or not following or _ends_before(listed, since):
                return None
            url = self._same_host(str(following))
        raise SendUnknown(f"Twilio lists more than {MAX_PAGES * PAGE_SIZE} messages to this recipient.")

    def check(self, http: httpx.Client) -> Health:
        import httpx

        if gap := self.missing():
            return Health(False, f"{gap}.", "Set it in the environment or in .env and start again.")
        # An API key of the standard kind may not read the account itself.
        path = "/Messages.json?PageSize=1" if self.api_key else ".json"
        try:
            response = self._call(http, "GET", self._account_url + path)
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            return Health(
                False,
                f"Twilio cannot be reached ({type(exc).__name__}).",
                "Check TWILIO_API_BASE_URL and whether this machine may reach it.",
            )
        answer = _json(response)
        if not response.is_success or not isinstance(answer, dict):
            return Health(False, *wire.explain(response.status_code, wire.error_code(answer)))
        state = answer.get("status", "active")
        if state != "active":
            return Health(False, f"The Twilio account is {state}.", "Look into the Twilio console for the reason.")
        if not self.keys:
            return Health(True, "Sending works; webhooks are refused until TWILIO_AUTH_TOKEN is set.")
        return Health(True, "The Twilio account is active.")

    @property
    def _account_url(self) -> str:
        return f"{self.base_url}/2010-04-01/Accounts/{quote(self.account_sid, safe='')}"

    def _same_host(self, uri: str) -> str:
        """A link from an answer, on our base URL whatever host it names: the credentials go nowhere else."""
        parts = urlsplit(uri)
        return urljoin(self.base_url + "/", parts.path + (f"?{parts.query}" if parts.query else ""))

    def _form(self, message: OutboundMessage) -> dict[str, str]:
        form = {"To": message.recipient, "Body": clean(message.text)}
        if self.numbers:
            form["From"] = message.sender if message.sender in self.numbers else self.numbers[0]
        if self.service_sid:
            form["MessagingServiceSid"] = self.service_sid
        if message.status_url:
            form["StatusCallback"] = message.status_url
        return form

    def _call(self, http: httpx.Client, method: str, url: str, data: dict[str, str] | None = None) -> httpx.Response:
        import httpx

        return http.request(
            method,
            url,
            data=data,
            auth=(self.api_key, self.api_key_secret) if self.api_key else (self.account_sid, self.auth_token),
            headers={"Accept": "application/json"},
            timeout=httpx.Timeout(READ_S, connect=CONNECT_S, pool=CONNECT_S),
            follow_redirects=False,
        )


def _number(text: str) -> str:
    """A sender as Twilio wants it: a number may be written with blanks, brackets and dashes; other senders stay."""
    text = text.strip()
    return "+" + re.sub(r"[\s().-]", "", text[1:]) if text.startswith("+") else text


def _json(response: httpx.Response) -> Any:
    """The JSON of an answer, None if it is none."""
    try:
        return response.json()
    except (ValueError, RecursionError):
        return None


def _now(response: httpx.Response) -> datetime:
    """Twilio's clock as its answer shows it, so that a wrong clock here does not matter; ours where it shows none."""
    return wire.moment(response.headers.get("Date")) or datetime.now(UTC)


def _ends_before(listed: list[Any], since: datetime) -> bool:
    """Whether a page, newest first, has come to messages made before `since`."""
    last = listed[-1]
    created = wire.moment(last.get("date_created")) if isinstance(last, dict) else None
    return created is not None and created < since


@hookimpl
def register_channels(settings: Mapping[str, str]) -> list[Channel]:
    return [TwilioChannel(settings)]
