"""A Twilio that takes messages, refuses what Twilio refuses, and signs webhooks.

`python -m tests.fakes.twilio --port N` runs it as a process; `GET /_sent` then lists what it has taken. The
signing here is written from Twilio's description, apart from the plugin's, so that each checks the other.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from .server import FakeReply, FakeRequest, FakeServer, run_as_process

ACCOUNT_SID = "AC00000000000000000000000000000001"
AUTH_TOKEN = "0123456789abcdef0123456789abcdef"
NUMBER = "+15005550006"
FORM = "application/x-www-form-urlencoded"

_E164 = re.compile(r"\+[1-9]\d{6,14}")
_MAGIC_FROM = {"+15005550001": 21212, "+15005550007": 21606, "+15005550008": 21611}
_MAGIC_TO = {
    "+15005550001": 21211,
    "+15005550002": 21612,
    "+15005550003": 21408,
    "+15005550004": 21610,
    "+15005550009": 21614,
}


class TwilioSigner:
    """Makes the webhooks that Twilio would send. Needs no server: system tests in another process use it by itself."""

    def __init__(self, account_sid: str = ACCOUNT_SID, auth_token: str = AUTH_TOKEN, number: str = NUMBER) -> None:
        self.account_sid = account_sid
        self.auth_token = auth_token
        self.number = number

    def sign(self, url: str, form: Mapping[str, str] | Iterable[tuple[str, str]] = (), *, token: str = "") -> str:
        """The X-Twilio-Signature of a form posted to `url`; `token` in place of the account's own."""
        values: dict[str, set[str]] = {}
        for name, value in form.items() if isinstance(form, Mapping) else form:
            values.setdefault(name, set()).add(value)
        text = url
        for name in sorted(values):
            for value in sorted(values[name]):
                text += name + value
        mac = hmac.new((token or self.auth_token).encode(), text.encode(), hashlib.sha1)
        return base64.b64encode(mac.digest()).decode()

    def signed(self, url: str, /, **form: str) -> tuple[dict[str, str], bytes]:
        """Headers and body of a signed form for the absolute `url`, as `(headers, data)`.

        `client.post(path, headers=headers, data=data)` with Flask, `httpx.post(url, headers=headers, content=data)`.
        """
        headers = {"Content-Type": FORM, "X-Twilio-Signature": self.sign(url, form)}
        return headers, urlencode(form).encode()

    def message(self, url: str, sender: str, text: str, /, **more: str) -> tuple[dict[str, str], bytes]:
        """A whole inbound message, signed, with an id of its own unless `MessageSid` is given."""
        sid = f"SM{uuid.uuid4().hex}"
        form = {
            "ToCountry": "US",
            "SmsMessageSid": sid,
            "NumMedia": "0",
            "FromCity": "",
            "SmsSid": sid,
            "SmsStatus": "received",
            "Body": text,
            "To": self.number,
            "NumSegments": "1",
            "MessageSid": sid,
            "AccountSid": self.account_sid,
            "From": sender,
            "ApiVersion": "2010-04-01",
        }
        return self.signed(url, **(form | more))

    def receipt(self, url: str, sid: str, status: str, error_code: str = "") -> tuple[dict[str, str], bytes]:
        """A signed status callback about the message `sid`."""
        form = {
            "MessageSid": sid,
            "SmsSid": sid,
            "MessageStatus": status,
            "SmsStatus": status,
            "AccountSid": self.account_sid,
            "From": self.number,
            "ApiVersion": "2010-04-01",
        }
        return self.signed(url, **(form | ({"ErrorCode": error_code} if error_code else {})))


class FakeTwilio(TwilioSigner, FakeServer):
    """Messages.json and the account, over HTTP. The numbers of Twilio's test mode behave as they do there."""

    def __init__(
        self, port: int = 0, *, account_sid: str = ACCOUNT_SID, auth_token: str = AUTH_TOKEN, number: str = NUMBER
    ) -> None:
        TwilioSigner.__init__(self, account_sid, auth_token, number)
        FakeServer.__init__(self, port)
        self.numbers = {number, NUMBER}
        """The account's own numbers; any other sender is refused."""
        self.services = {"MG00000000000000000000000000000001"}
        self.api_keys: dict[str, str] = {}
        """API keys and their secrets. As at Twilio they may not read the account itself."""
        self.opt_outs: set[str] = set()
        """Recipients who have told the carrier to stop."""
        self.account_status = "active"
        self.date_skew_s = 0.0
        """Added to the creation date of new messages: older ones are made with a negative number."""
        self.sent: list[dict[str, str]] = []
        """What was taken, oldest first: to, from_, body, sid, status_callback."""
        self._messages: list[dict[str, Any]] = []

    @property
    def settings(self) -> dict[str, str]:
        """The environment under which the plugin uses this fake."""
        return {
            "TWILIO_ACCOUNT_SID": self.account_sid,
            "TWILIO_AUTH_TOKEN": self.auth_token,
            "TWILIO_PHONE_NUMBER": self.number,
            "TWILIO_API_BASE_URL": self.url,
        }

    def handle(self, request: FakeRequest) -> FakeReply:
        base = f"/2010-04-01/Accounts/{self.account_sid}"
        by_account = self._basic(self.account_sid, self.auth_token)
        by_key = {self._basic(key, secret) for key, secret in self.api_keys.items()}
        allowed = {by_account} if request.path == f"{base}.json" else {by_account} | by_key
        if request.header("Authorization") not in allowed:
            return self._error(401, 20003, "Authenticate")
        if request.path == f"{base}/Messages.json":
            return self._create(request) if request.method == "POST" else self._list(request)
        if request.path == f"{base}.json":
            return FakeReply.json({"sid": self.account_sid, "status": self.account_status, "friendly_name": "Fake"})
        for message in self._messages:
            if request.path == f"{base}/Messages/{message['sid']}.json":
                return FakeReply.json(message)
        return self._error(404, 20404, f"The requested resource {request.path} was not found")

    def control(self, request: FakeRequest) -> FakeReply:
        """`GET /_sent`: what was taken. The rest is the base's."""
        if request.path == "/_sent":
            with self.lock:
                return FakeReply.json(self.sent)
        return super().control(request)

    @staticmethod
    def _basic(user: str, password: str) -> str:
        return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()

    @staticmethod
    def _error(status: int, code: int, message: str) -> FakeReply:
        more = f"https://www.twilio.com/docs/errors/{code}"
        return FakeReply.json({"code": code, "message": message, "more_info": more, "status": status}, status)

    def _create(self, request: FakeRequest) -> FakeReply:
        if request.header("Content-Type").split(";")[0] != FORM:
            return self._error(400, 21604, "A 'To' phone number is required.")
        form = dict(request.form())
        if code := self._fault_of(form):
            # Twilio quotes the number in its message; a client that repeats it in a log would leak it.
            return self._error(400, code, f"The number {form.get('To', '')} cannot be sent to: {code}")
        with self.lock:
            sid = f"SM{len(self._messages) + 1:032x}"
            by_service = "From" not in form
            message = {
                "sid": sid,
                "account_sid": self.account_sid,
                "status": "accepted" if by_service else "queued",
                "body": form["Body"],
                "from": form.get("From"),
                "to": form["To"],
                "direction": "outbound-api",
                "num_segments": "0" if by_service else str(-(-len(form["Body"]) // 153)),
                "num_media": "0",
                "price": None,
                "price_unit": "USD",
                "error_code": None,
                "error_message": None,
                "messaging_service_sid": form.get("MessagingServiceSid"),
                "date_created": format_datetime(datetime.now(UTC) + timedelta(seconds=self.date_skew_s)),
                "date_sent": None,
                "api_version": "2010-04-01",
                "uri": f"/2010-04-01/Accounts/{self.account_sid}/Messages/{sid}.json",
            }
            self._messages.append(message)
            self.sent.append(
                {
                    "to": form["To"],
                    "from_": form.get("From", ""),
                    "body": form["Body"],
                    "sid": sid,
                    "status_callback": form.get("StatusCallback", ""),
                }
            )
        return FakeReply.json(message, 201)

    def _fault_of(self, form: Mapping[str, str]) -> int:
        """Twilio's error code for a form it does not take, 0 if it does."""
        to, sender, callback = form.get("To", ""), form.get("From", ""), form.get("StatusCallback", "")
        service = form.get("MessagingServiceSid", "")
        host = urlsplit(callback).hostname or ""
        checks = (
            (not to, 21604),
            (not sender and not service, 21603),
            (not form.get("Body"), 21602),
            (len(form.get("Body", "").encode("utf-16-le")) > 2 * 1600, 21617),
            (bool(callback) and ("_" in host or not host), 21609),
            (sender in _MAGIC_FROM, _MAGIC_FROM.get(sender, 0)),
            (bool(service) and service not in self.services, 21701),
            (bool(sender) and sender not in self.numbers, 21606),
            (to in _MAGIC_TO, _MAGIC_TO.get(to, 0)),
            (not _E164.fullmatch(to), 21211),
            (to in self.opt_outs, 21610),
        )
        return next((code for wrong, code in checks if wrong), 0)

    def _list(self, request: FakeRequest) -> FakeReply:
        query = {name: values[0] for name, values in request.query.items()}
        size, page = min(int(query.get("PageSize", "50")), 1000), int(query.get("Page", "0"))
        with self.lock:
            found = [
                message
                for message in reversed(self._messages)
                if query.get("To", message["to"]) == message["to"] and query.get("From", message["from"]) == message["from"]
            ]
        more = (page + 1) * size < len(found)
        base = f"/2010-04-01/Accounts/{self.account_sid}/Messages.json"
        following = f"{base}?To={quote(query.get('To', ''), safe='')}&PageSize={size}&Page={page + 1}"
        return FakeReply.json(
            {
                "messages": found[page * size : (page + 1) * size],
                "page": page,
                "page_size": size,
                "next_page_uri": following if more else None,
            }
        )


if __name__ == "__main__":
    run_as_process(FakeTwilio, "A fake Twilio for system tests; GET /_sent lists what it has taken.")
