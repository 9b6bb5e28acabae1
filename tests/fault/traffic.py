"""The carrier's side of the way in: signed webhooks, repeated until they are taken, as Twilio can be set to do."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx

from tests.fakes.twilio import TwilioSigner
from tests.fault import words

_AGAIN_S = 0.5


class Traffic:
    """Posts `count` messages of `phones` numbers, spread over `seconds`. Repeats carry the same id and signature."""

    def __init__(self, url: str, count: int, phones: int, seconds: float, seed: int) -> None:
        self.url = f"{url}/sms/receive"
        self.count, self.phones, self.seconds = count, phones, seconds
        self.accepted = 0
        self.tries: Counter[str] = Counter()
        self.given_up = threading.Event()
        self._guard = threading.Lock()
        self._chance = random.Random(seed)
        self._signer = TwilioSigner()

    def run(self) -> None:
        """Returns when every message is accepted, or `given_up` is set."""
        began = time.monotonic()
        numbers = list(range(self.count))
        self._chance.shuffle(numbers)
        times = sorted(self._chance.uniform(0, self.seconds) for _ in numbers)
        with httpx.Client(timeout=15) as client, ThreadPoolExecutor(48) as pool:
            for number, at_s in zip(numbers, times, strict=True):
                self.given_up.wait(max(0.0, began + at_s - time.monotonic()))
                pool.submit(self._post, client, number)

    def _post(self, client: httpx.Client, number: int) -> None:
        signed, body = self._signer.message(self.url, words.phone(number % self.phones), words.question(number))
        while not self.given_up.is_set():
            try:
                status = str(client.post(self.url, headers=signed, content=body).status_code)
            except httpx.TransportError as exc:
                status = type(exc).__name__
            with self._guard:
                self.tries[status] += 1
                self.accepted += status == "200"
            if status == "200":
                return
            self.given_up.wait(_AGAIN_S)
