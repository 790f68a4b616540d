"""The best images of the wall, by the score of the discriminator."""

import re

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from tests.support.browser import PHONE, accessibility_violations, image_pixels, served_pixels


@pytest.fixture
def open_wall(open_page, latent_server):
    def open_wall(parameters: str = "", model: str = "movable", **options) -> Page:
        return open_page(f"/#model={model}&panel=wall{parameters}", of=latent_server, **options)

    return open_wall


def best_of(candidates: np.ndarray, seeds: range, count: int) -> list[int]:
    """The seeds of the `count` brightest images, in their order."""
    brightness = candidates.reshape(len(candidates), -1).mean(axis=1)
    return sorted(np.asarray(seeds)[np.argsort(-brightness, kind="stable")[:count]].tolist())


def shown_seeds(page: Page, count: int) -> list[int]:
    tiles = page.locator(".wall .tile.is-loaded .tile-image")
    expect(tiles.nth(count - 1)).to_be_visible()
    labels = [tiles.nth(i).get_attribute("aria-label") for i in range(count)]
    return [int(re.search(r"seed (\d+)$", label)[1]) for label in labels]


def test_best_quarter_is_shown_under_its_own_seeds(open_wall, latent_server):
    page = open_wall("&seed=5")
    with page.expect_response(
        lambda response: (
            "rank" in (response.request.post_data_json or {})
            and response.request.post_data_json["seed"] == 5
        )
    ) as waiting:
        page.get_by_label("¼", exact=True).check()
    body = waiting.value.request.post_data_json
    count = body["n"]
    assert body["rank"] == 0.25
    assert count > 1
    kept = [image["seed"] for image in waiting.value.json()["images"]]
    seeds = range(5, 5 + 4 * count)
    request = {"model": "movable", "seeds": list(seeds)}
    candidates = served_pixels(latent_server, "/v1/generate", request)
    assert kept == best_of(candidates, seeds, count)
    expect(page.locator(".wall .tile-image").first).to_have_attribute(
        "aria-label", f"movable, seed {kept[0]}"
    )
    assert shown_seeds(page, count) == kept
    assert (
        image_pixels(page, ".wall .tile >> nth=0 >> img") == candidates[seeds.index(kept[0])]
    ).all()
    # The next images are chosen from the next candidates.
    more = shown_seeds(page, count + 1)
    assert more[count] >= seeds.stop


def test_cost_in_diversity_is_shown(open_wall):
    page = open_wall()
    note = page.locator(".rank-note")
    expect(note).to_have_text(
        "Kernel distance 0.0120 (lower is better), precision 0.50, recall 0.50 (diversity)."
    )
    page.get_by_label("¼", exact=True).check()
    expect(note).to_have_text(
        "Kernel distance 0.0030 instead of 0.0120 (lower is better), "
        "precision 0.88 instead of 0.50, recall 0.13 instead of 0.50 (diversity)."
    )
    page.get_by_label("½", exact=True).check()
    expect(note).to_have_text("The quality of this share was not measured.")


@pytest.mark.slow
def test_share_is_in_the_link(open_wall):
    page = open_wall("&rank=0.1")
    expect(page.get_by_label("1⁄10")).to_be_checked()
    page.get_by_label("½", exact=True).check()
    page.wait_for_url(re.compile("rank=0.5"))
    page.get_by_label("All", exact=True).check()
    page.wait_for_url(lambda url: "rank" not in url)


def test_model_without_discriminator_has_no_share(open_wall):
    page = open_wall("&rank=0.25", model="movable-classes")
    assert shown_seeds(page, 3) == [0, 1, 2]
    expect(page.get_by_text("Best of the images")).to_have_count(0)


def test_control_is_accessible_on_a_phone(open_wall):
    page = open_wall("&rank=0.25", size=PHONE, color_scheme="dark")
    expect(page.locator(".wall .tile.is-loaded").first).to_be_visible()
    assert accessibility_violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE[0]
