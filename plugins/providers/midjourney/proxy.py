"""Calls to one proxy: each bounded in time and size, each failure a typed error without the secret in it."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

import httpx

from plugins.providers.midjourney import addresses, wire
from webapp.plugin import (
    MalformedAnswer,
    Picture,
    ProviderError,
    TimedOut,
    Unavailable,
    at_most,
    error_for_network,
    error_for_status,
    retry_after_s,
    vendor_words,
)

CONNECT_S = 5.0
LOOK_S = 20.0
CANCEL_S = 2.0
PICTURE_S = 60.0
PICTURE_TRIES = 2
_ANSWER_BYTES = 1024 * 1024
_CALL_ERRORS = (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL)


class Budget:
    """The time that is left for a picture. A little of it is kept back, so that a task can be cancelled when it is over."""

    def __init__(self, timeout_s: float) -> None:
        self._ends = time.monotonic() + timeout_s - min(CANCEL_S, timeout_s * 0.05)

    def left(self, at_most_s: float = float("inf")) -> float:
        """Seconds for the next step. Raises `TimedOut` where there are none."""
        left = self._ends - time.monotonic()
        if left <= 0:
            raise TimedOut("The picture was not finished in time.")
        return min(left, at_most_s)


class Proxy:
    """The operator's proxy. `headers` hold the secret, which goes to the proxy alone."""

    def __init__(self, label: str, base_url: str, headers: Mapping[str, str], speed: str, secret: str) -> None:
        self.label = label
        self.base_url = base_url
        self._headers = dict(headers)
        self._submit_url = base_url + (f"/mj-{speed}" if speed else "")
        self._secret = secret

    # -- the steps of a picture ------------------------------------------------------------------------------------
    def submit(self, path: str, body: Mapping[str, object], http: httpx.Client, timeout_s: float) -> wire.Submitted:
        """Begin a task. Raises `ProviderError`."""
        answer = self._object(self._json("POST", self._submit_url + path, body, http, timeout_s))
        return wire.submitted(answer, self.label, self.words(wire.said(answer)))

    def look(self, task_id: str, http: httpx.Client, timeout_s: float) -> wire.Task | None:
        """How far a task is; None where the proxy does not know it."""
        found = self._json("GET", f"{self.base_url}/mj/task/{task_id}/fetch", None, http, timeout_s)
        return wire.task(self._object(found)) if found else None

    def cancel(self, task_id: str, http: httpx.Client) -> None:
        """End a task, where the proxy can. Raises nothing: there is nobody left who would do something about it."""
        with contextlib.suppress(ProviderError):
            self._json("POST", f"{self.base_url}/mj/task/{task_id}/cancel", {}, http, CANCEL_S)

    def picture(self, url: str, http: httpx.Client, budget: Budget) -> Picture:
        """Fetch a finished picture, which may stand anywhere: without the secret, and twice if need be, since it is paid
        for."""
        try:
            address = addresses.picture_url(url, self.base_url)
        except ValueError as exc:
            raise MalformedAnswer(f"{self.label} tells no usable address of the picture.", detail=str(exc)) from exc
        for _ in range(PICTURE_TRIES - 1):
            with contextlib.suppress(Unavailable, MalformedAnswer, TimedOut):
                return self._fetch(address, http, budget.left(PICTURE_S / PICTURE_TRIES))
        return self._fetch(address, http, budget.left(PICTURE_S))

    def _fetch(self, address: str, http: httpx.Client, timeout_s: float) -> Picture:
        request = _request(http, "GET", address, {}, None, timeout_s, wire.PICTURE_BYTES)
        with self._answers(request, http) as response:
            if not response.is_success:
                status = response.status_code
                raise Unavailable(f"{self.label}'s picture cannot be fetched (status {status}).", status=status)
            data = self._whole(response, wire.PICTURE_BYTES)
        try:
            return wire.picture_from(data)
        except ValueError as exc:
            raise MalformedAnswer(f"What {self.label} calls a picture is none.", detail=str(exc)) from exc

    # -- is it there? ----------------------------------------------------------------------------------------------
    def waiting(self, http: httpx.Client, timeout_s: float) -> str:
        """What a look that costs nothing shows, in words. Raises `ProviderError`.

        trueai's `/health` needs no secret, so a list of no tasks proves that; novicezk has neither, but a queue.
        """
        if self._knows_health(http, timeout_s):
            found = self._json("POST", f"{self.base_url}/mj/task/list-by-condition", {"ids": []}, http, timeout_s)
            if not isinstance(found, list):
                raise self._malformed("the list of tasks is no list")
            return "its secret is right"
        found = self._json("GET", f"{self.base_url}/mj/task/queue", None, http, timeout_s)
        if not isinstance(found, list):
            raise self._malformed("the queue is no list")
        return f"{len(found)} tasks wait there"

    def _knows_health(self, http: httpx.Client, timeout_s: float) -> bool:
        request = _request(http, "GET", f"{self.base_url}/health", self._headers, None, timeout_s, _ANSWER_BYTES)
        with self._answers(request, http) as response:
            if response.status_code in (401, 403, 404, 405):  # novicezk may guard what it does not have
                return False
            if not response.is_success:
                raise self._failure(response)
            return True

    # -- calls -----------------------------------------------------------------------------------------------------
    def _json(self, method: str, url: str, body: Mapping[str, object] | None, http: httpx.Client, timeout_s: float) -> object:
        """The JSON of an answer that is a success, None where it is empty."""
        content = None if body is None else json.dumps(body).encode()
        headers = self._headers | {"Accept": "application/json"} | ({"Content-Type": "application/json"} if content else {})
        with self._answers(_request(http, method, url, headers, content, timeout_s, _ANSWER_BYTES), http) as response:
            if not response.is_success:
                raise self._failure(response)
            data = self._whole(response, _ANSWER_BYTES)
        try:
            return json.loads(data) if data.strip() else None
        except (ValueError, RecursionError) as exc:
            raise self._malformed(f"no JSON; it began: {data[:120].decode('utf-8', 'replace')}") from exc

    @contextlib.contextmanager
    def _answers(self, request: httpx.Request, http: httpx.Client) -> Iterator[httpx.Response]:
        try:
            with contextlib.closing(http.send(request, stream=True)) as response:
                yield response
        except _CALL_ERRORS as exc:
            raise error_for_network(self.label, exc) from exc

    def _whole(self, response: httpx.Response, size_max: int) -> bytes:
        pieces, size = [], 0
        for piece in response.iter_bytes():
            pieces.append(piece)
            size += len(piece)
            if size > size_max:
                raise self._malformed("the answer is too large")
        return b"".join(pieces)

    def _failure(self, response: httpx.Response) -> ProviderError:
        words = at_most(response, 65_536).decode("utf-8", "replace")
        return error_for_status(
            self.label, response.status_code, words, self.words(words), retry_after_s=retry_after_s(response.headers)
        )

    def _object(self, found: object) -> dict[str, Any]:
        if not isinstance(found, dict):
            raise self._malformed("the answer is not a JSON object")
        return found

    def _malformed(self, why: str) -> MalformedAnswer:
        return MalformedAnswer(f"What {self.label} sent is not a valid answer.", detail=self.words(why))

    def words(self, text: str) -> str:
        """What the proxy said, fit for operators to read."""
        return vendor_words(text, (self._secret,))


def _request(
    http: httpx.Client,
    method: str,
    url: str,
    headers: Mapping[str, str],
    content: bytes | None,
    timeout_s: float,
    size_max: int,
) -> httpx.Request:
    return http.build_request(
        method,
        url,
        headers=headers,
        content=content,
        timeout=httpx.Timeout(timeout_s, connect=min(CONNECT_S, timeout_s)),
        extensions={"max_bytes": size_max},
    )
