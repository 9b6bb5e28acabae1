"""Midjourney through one of the customary proxies (novicezk's, or trueai-org's): a task is submitted and looked at until it
has ended; its picture is fetched at once, because its address expires."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Generator, Iterator, Mapping

import httpx

from plugins.providers.midjourney import actions, addresses, wire
from plugins.providers.midjourney.proxy import LOOK_S, Budget, Proxy
from webapp.plugin import (
    Drawn,
    Finish,
    Health,
    ImageAction,
    ImageCall,
    ImageProvider,
    MalformedAnswer,
    ModelInfo,
    Progress,
    ProviderError,
    RateLimited,
    TimedOut,
    Unavailable,
    Usage,
    Variable,
    VariableKind,
    hookimpl,
    is_usable_url,
)

MODEL = "midjourney"
SPEEDS = ("", "fast", "turbo", "relax")
CHECK_S = 5.0
POLL_S = 4.0
POLL_MAX_S = 60.0
PAUSE_GROWTH = 1.25
PAUSE_MAX = 3.0
_TRIES = 3
_DEFAULT_HEADER = "mj-api-secret"
_HEADER_TAKEN = re.compile(r"host|content-.*|transfer-encoding|te|trailer|upgrade|connection|keep-alive|expect|cookie", re.I)
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")


class Midjourney(ImageProvider):
    """A proxy that the operator runs or rents, as the settings describe it."""

    name = "midjourney"
    label = "Midjourney"
    default_model = MODEL
    price_as = "midjourney"
    preference = 90
    by_name_only = True
    warning = (
        "Midjourney has no official API. This provider talks to a proxy that drives a Discord account, which may break "
        "Midjourney's and Discord's terms and cost you that account. Switch it on only if you accept this."
    )
    environment = (
        Variable(
            "MIDJOURNEY_PROXY_URL",
            "Address of the Midjourney proxy, such as http://localhost:8080.",
            kind=VariableKind.URL,
        ),
        Variable("MIDJOURNEY_PROXY_SECRET", "Secret of the proxy; leave it empty for a proxy without one.", secret=True),
        Variable("MIDJOURNEY_SECRET_HEADER", "Header that carries the secret.", default=_DEFAULT_HEADER),
        Variable("MIDJOURNEY_SECRET_PREFIX", "What stands before the secret in its header, such as Bearer."),
        Variable(
            "MIDJOURNEY_SPEED",
            "Speed to draw at, where the proxy offers a choice (trueai's does); empty leaves it to the proxy.",
            choices=SPEEDS,
        ),
        Variable(
            "MIDJOURNEY_POLL_S",
            "Seconds between two looks at a task; they grow while it takes longer.",
            default="4",
            kind=VariableKind.NUMBER,
        ),
    )

    def __init__(self, settings: Mapping[str, str]) -> None:
        self.base_url = addresses.proxy_url(settings.get("MIDJOURNEY_PROXY_URL", ""))
        self._secret = settings.get("MIDJOURNEY_PROXY_SECRET", "").strip()
        self._header = settings.get("MIDJOURNEY_SECRET_HEADER", "").strip() or _DEFAULT_HEADER
        self._value = _with_prefix(settings.get("MIDJOURNEY_SECRET_PREFIX", "").strip(), self._secret)
        self._speed = settings.get("MIDJOURNEY_SPEED", "").strip().lower()
        self._poll_s = _seconds(settings.get("MIDJOURNEY_POLL_S", "").strip())
        headers = {self._header: self._value} if self._secret else {}
        self._proxy = Proxy(self.label, self.base_url, headers, self._speed, self._secret)

    def missing(self) -> str:
        """A variable that is not set or cannot be right; '' if a call may be tried."""
        if not self.base_url:
            return "MIDJOURNEY_PROXY_URL is not set"
        if not is_usable_url(self.base_url):
            return "MIDJOURNEY_PROXY_URL is not an http or https address without user and password"
        if not _HEADER_NAME.fullmatch(self._header):
            return "MIDJOURNEY_SECRET_HEADER is not the name of a header"
        if _HEADER_TAKEN.fullmatch(self._header):
            return "MIDJOURNEY_SECRET_HEADER is the name of a header that every call has a use for already"
        if not (self._value.isascii() and self._value.isprintable()):
            return "MIDJOURNEY_PROXY_SECRET or MIDJOURNEY_SECRET_PREFIX holds characters that cannot be sent in a header"
        if self._speed not in SPEEDS:
            return f"MIDJOURNEY_SPEED is none of {', '.join(filter(None, SPEEDS))}"
        if math.isnan(self._poll_s):
            return f"MIDJOURNEY_POLL_S is not a number of seconds up to {POLL_MAX_S:.0f}"
        return ""

    def model_info(self, model: str) -> ModelInfo:
        """There is one model: which version draws is a parameter in the prompt, or a setting of the Discord account."""
        return ModelInfo(model, "Midjourney", note="Has no price that can be looked up: set one for each picture.")

    # -- a call ----------------------------------------------------------------------------------------------------
    def draw(self, call: ImageCall, http: httpx.Client) -> Iterator[Progress | Drawn | Usage]:
        """Progress after every look at the task, the picture with what can be done with it, and the usage.

        Closing the generator, and running out of time, cancels the task at a proxy that can do so.
        """
        budget = Budget(call.timeout_s)
        path, body = wire.submission(call, self.label)
        submitted = self._proxy.submit(path, body, http, budget.left())
        to_cancel = submitted.fresh
        try:
            task = yield from self._watch(submitted.task_id, http, budget)
            to_cancel = submitted.fresh and task.status == "MODAL"
        finally:
            if to_cancel:
                self._proxy.cancel(submitted.task_id, http)
        if task.status != "SUCCESS":
            raise wire.failure(task, self.label, self._proxy.words(task.fail_reason or task.status))
        usage = Usage(pictures=1, finish=Finish.STOP, model=MODEL, vendor_request_id=submitted.task_id)
        try:
            picture = self._proxy.picture(task.image_url, http, budget)
        except ProviderError as exc:
            exc.usage = usage
            raise
        seed = call.seed if call.action is None else None
        yield Drawn(picture, seed=seed, actions=_actions(submitted.task_id, task))
        yield usage

    def _watch(self, task_id: str, http: httpx.Client, budget: Budget) -> Generator[Progress, None, wire.Task]:
        """Look until the task has ended. A look that fails is no reason to give up what is being drawn; three in a row are."""
        percent, pause_s, failed = 0, self._poll_s, 0
        while True:
            yield Progress(percent)
            time.sleep(budget.left(pause_s))
            pause_s = min(pause_s * PAUSE_GROWTH, self._poll_s * PAUSE_MAX)
            try:
                task = self._proxy.look(task_id, http, budget.left(LOOK_S))
                if task is None:
                    raise Unavailable(f"{self.label} does not know the task that it took.")
            except (Unavailable, RateLimited, TimedOut, MalformedAnswer):
                budget.left()
                failed += 1
                if failed == _TRIES:
                    raise
                continue
            failed = 0
            percent = max(percent, task.percent)
            if task.ended:
                return task

    # -- what the proxy offers -------------------------------------------------------------------------------------
    def models(self, http: httpx.Client) -> list[ModelInfo]:  # noqa: ARG002 - proxies list none
        """The one model that there is."""
        return [self.model_info(MODEL)]

    def check(self, http: httpx.Client) -> Health:
        """Ask the proxy whether it is there and takes the secret."""
        if missing := self.missing():
            return Health(False, f"{missing}.", cure="Set it in the settings or in the environment.")
        try:
            found = self._proxy.waiting(http, CHECK_S)
        except ProviderError as exc:
            where = "Check MIDJOURNEY_PROXY_URL, MIDJOURNEY_PROXY_SECRET and MIDJOURNEY_SECRET_HEADER."
            return Health(False, f"{exc.message} {exc.detail}".strip(), cure=where)
        return Health(True, f"The proxy answers; {found}.")


def _actions(task_id: str, task: wire.Task) -> tuple[ImageAction, ...]:
    if task.buttons is not None:
        return actions.of_buttons(task_id, task.buttons)
    return actions.of_grid(task_id, task.action)


def _with_prefix(prefix: str, secret: str) -> str:
    """`Bearer` and a secret need a blank between them, which settings do not keep; `key=` and a secret need none."""
    return f"{prefix} {secret}" if prefix[-1:].isalnum() else prefix + secret


def _seconds(text: str) -> float:
    """A pause in seconds; NaN where the text is none."""
    try:
        seconds = float(text or POLL_S)
    except ValueError:
        return math.nan
    return seconds if 0 < seconds <= POLL_MAX_S else math.nan


@hookimpl
def register_providers(settings: Mapping[str, str]) -> list[ImageProvider]:
    """The one provider; it says so itself where no proxy is named."""
    return [Midjourney(settings)]
