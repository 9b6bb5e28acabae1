"""The contracts of providers as pytest classes: subclass one, give the fixtures `fake` and `provider`.

`fake` is a started fake vendor (a `FakeTextVendor` or `FakeImageVendor` of `webapp.testkit.fakes.vendor`), `provider` the
plugin's provider, ready and pointed at it. A text provider that calls no vendor takes `LocalProviderContract` and gives
`provider` alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from webapp.testkit import asking
from webapp.testkit.broken import BrokenAnswers, Failures
from webapp.testkit.fakes.server import FakeReply, FakeRequest, FakeServer, Fault
from webapp.testkit.pictures import Pictures
from webapp.testkit.promises import Answers, SelfDescription, VendorAnswers
from webapp.testkit.tools import Tools, WholeAnswers

__all__ = ["ImageProviderContract", "LocalProviderContract", "TextProviderContract"]


class _Elsewhere(FakeServer):  # type: ignore[misc]  # unknown to mypy in a checkout
    """A server that nobody should come to."""

    def handle(self, request: FakeRequest) -> FakeReply:  # noqa: ARG002 - whoever comes is wrong here
        return FakeReply(200, {}, b"you should not be here")


class _Fixtures:
    @pytest.fixture(scope="class")
    @classmethod
    def http(cls) -> Iterator[httpx.Client]:
        """The product's own HTTP client: it holds the time limits, and follows no redirect."""
        with asking.client() as client:
            yield client

    @pytest.fixture
    def fault(self) -> Any:
        """Makes faults for the fake."""
        return Fault

    @pytest.fixture
    def elsewhere(self) -> Iterator[FakeServer]:
        """A server of somebody else's."""
        with _Elsewhere() as server:
            yield server


class LocalProviderContract(_Fixtures, SelfDescription, Answers):
    """What a provider promises that calls no vendor. Needs the fixture `provider`."""


class TextProviderContract(_Fixtures, SelfDescription, VendorAnswers, Tools, WholeAnswers, Failures, BrokenAnswers):
    """What every text provider promises. Needs the fixtures `fake` and `provider`."""


class ImageProviderContract(_Fixtures, SelfDescription, Pictures, Failures):
    """What every image provider promises. Needs the fixtures `fake` and `provider`."""
