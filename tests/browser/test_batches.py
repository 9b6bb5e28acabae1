"""Batches in a browser: the progress moves by itself, and every page is accessible and fits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Live, Watched
from tests.browser.test_look import DESK, HAND, faults, too_wide
from tests.integration.batch_support import feed, table


def upload(page: Page, live: Live, text: str, **fields: str) -> None:
    page.goto(f"{live.address}/batches/new")
    page.get_by_label("File").set_input_files({"name": "my words.csv", "mimeType": "text/csv", "buffer": text.encode()})
    for label, value in fields.items():
        page.get_by_label(label).fill(value)
    page.get_by_role("button", name="Check the file").click()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESK, HAND], ids=["desk", "hand"])
def test_every_page_of_batches_is_accessible_and_fits(
    live: Live, signed_in: Callable[..., Page], page: Page, quiet: Watched, size: tuple[int, int], scheme: str
) -> None:
    page.set_viewport_size({"width": size[0], "height": size[1]})
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    seen = {}

    def look(name: str) -> None:
        seen[name] = (faults(page), too_wide(page))

    signed_in(plan="professional")
    page.goto(f"{live.address}/batches")
    look("empty list")
    page.goto(f"{live.address}/batches/new")
    look("form")
    live.rest()
    upload(page, live, "city,n\n" + f"{'x' * 300},1\n" + ",2\n" * 120, Template="About {{city}} and {{" + "y" * 90 + "}}")
    look("faults of the header")
    # The refused form has an error for the console, too.
    upload(page, live, "city,n\n" + ",2\n" * 120, Template="About {{city}}")
    expect(page.get_by_role("heading", name="120 things to mend")).to_be_visible()
    look("faults of rows")
    quiet.complaints.clear()
    upload(page, live, table(30), Template="show me a table of {{prompt}}")
    look("price")
    page.get_by_role("button", name="Start it").click()
    with live.app.app_context():
        feed()
    look("running")
    page.get_by_role("button", name="Cancel…").click()
    expect(page.get_by_text("Cancel this batch?")).to_be_visible()
    look("asked")
    page.get_by_role("link", name="No, keep it").click()
    page.get_by_role("button", name="Pause").click()
    look("paused")
    page.goto(f"{live.address}/batches")
    look("list")
    assert {name: found for name, found in seen.items() if found != ([], 0)} == {}


@pytest.mark.parametrize("live", [0], indirect=True)
def test_the_progress_moves_by_itself_and_comes_to_rest(
    live: Live, signed_in: Callable[..., Page], page: Page, quiet: Watched
) -> None:
    signed_in(plan="professional")
    upload(page, live, table(25))
    expect(page.get_by_text("The file is fine")).to_be_visible()
    page.get_by_role("button", name="Start it").click()
    expect(page.get_by_text("0 of 25 rows")).to_be_visible()
    with live.app.app_context():
        feed()
    expect(page.get_by_text("20 of 25 rows")).to_be_visible(timeout=30_000)
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    with live.app.app_context():
        feed()
    expect(page.get_by_text("25 of 25 rows")).to_be_visible(timeout=30_000)
    with live.app.app_context():
        feed()
    expect(page.locator("#batch-state[hx-get]")).to_have_count(0)
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV").click()
    assert download.value.suggested_filename == "my-words-results.csv"
    assert download.value.path().read_text(encoding="utf-8-sig").count("completed") == 25
