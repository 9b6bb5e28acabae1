"""The kit's contract of image providers, as third parties take it, held against the built-in ones."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from plugins.providers import gemini, midjourney, openai_images, stability
from tests.fakes.gemini import FakeGeminiImages
from tests.fakes.midjourney import FakeMidjourney
from tests.fakes.openai_images import FakeOpenAIImages
from tests.fakes.stability import FakeStability
from tests.fakes.vendor import FakeImageVendor
from webapp.plugin import ImageProvider
from webapp.testkit.contract import ImageProviderContract

VENDORS = {
    "openai": (openai_images, FakeOpenAIImages),
    "gemini": (gemini, FakeGeminiImages),
    "stability": (stability, FakeStability),
    "midjourney": (midjourney, FakeMidjourney),
}


@pytest.fixture(params=VENDORS)
def vendor(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


class TestEveryImageVendor(ImageProviderContract):
    @pytest.fixture
    def fake(self, vendor: str) -> Iterator[FakeImageVendor]:
        with VENDORS[vendor][1]() as fake:
            yield fake

    @pytest.fixture
    def provider(self, vendor: str, fake: FakeImageVendor) -> ImageProvider:
        [found] = [p for p in VENDORS[vendor][0].register_providers(fake.settings) if isinstance(p, ImageProvider)]
        return found
