"""What the page shows when the service is busy, needs a key, or has a model that failed."""

import json
import re
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect

from service.api_keys import add_key
from tests.support.servers import serving

MODELS = Path(__file__).parents[2] / "models"


def problem(status: int, kind: str, detail: str, retry_after: int | None = None) -> dict:
    """The options of `Route.fulfill` for a problem, as the service sends it."""
    headers = {} if retry_after is None else {"retry-after": str(retry_after)}
    body = {"type": f"urn:ganymede:problem:{kind}", "status": status, "detail": detail}
    return {
        "status": status,
        "headers": headers | {"content-type": "application/problem+json"},
        "body": json.dumps(body),
    }


@pytest.mark.parametrize(
    ("status", "kind", "text"),
    [
        (429, "queue-full", "The service is busy."),
        pytest.param(503, "not-ready", "The service is not ready.", marks=pytest.mark.slow),
    ],
)
def test_busy_service_is_retried_and_the_page_says_so(open_page, faults, status, kind, text):
    page = open_page("about:blank")
    refused = []

    def refuse_once(route: Route) -> None:
        if refused:
            route.continue_()
        else:
            refused.append(route)
            route.fulfill(**problem(status, kind, "the reason", retry_after=2))

    page.route("**/v1/models", refuse_once)
    page.goto("/")
    waiting = page.locator("#wait")
    expect(waiting).to_contain_text(f"{text} The reason.")
    expect(waiting).to_contain_text(re.compile(r"Trying again in \d+ s"))
    expect(page.get_by_role("heading", level=1)).to_have_text("stylegan2-flowers")
    expect(waiting).to_be_hidden()
    faults.expect(str(status))


def test_stopped_service_is_reported_with_a_way_to_try_again(open_page, faults):
    page = open_page("about:blank")
    page.route("**/v1/models", lambda route: route.fulfill(**problem(503, "x", "it is off")))
    page.goto("/")
    expect(page.get_by_role("heading", level=1)).to_have_text("The models cannot be listed")
    expect(page.get_by_text("It is off.")).to_be_visible()
    page.unroute("**/v1/models")
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("stylegan2-flowers")
    faults.expect("503")


def test_failed_images_can_be_requested_again(open_page, faults):
    page = open_page("about:blank")
    page.route("**/v1/generate", lambda route: route.fulfill(**problem(500, "internal", "broken")))
    page.goto("/#model=gan-mnist")
    expect(page.get_by_role("alert").first).to_contain_text("broken")
    expect(page.get_by_role("alert").nth(1)).to_contain_text("broken")
    page.unroute("**/v1/generate")
    # One click repeats all failed requests.
    page.get_by_role("button", name="Try again").first.click()
    expect(page.locator(".tile.is-loaded").first).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)
    faults.expect("500")


@pytest.fixture(scope="module")
def guarded(browser, tmp_path_factory):
    """A server that needs keys, with a model that works and one that failed to load; its keys."""
    folder = tmp_path_factory.mktemp("guarded")
    for name in ("gan-mnist", "dcgan-fashion"):
        shutil.copytree(MODELS / name, folder / "models" / name)
    (folder / "models" / "dcgan-fashion" / "1" / "generator.onnx").write_bytes(b"damaged")
    keys = {
        "plain": add_key(folder / "keys.json", "plain"),
        # Enough for the images of the first page, but not of all that are requested at once.
        "poor": add_key(folder / "keys.json", "poor", pixels_per_minute=28 * 28 * 60),
    }
    environment = {"GANYMEDE_KEYS": str(folder / "keys.json")}
    with serving(folder / "models", env=environment) as server:
        yield server, keys


def enter_key(page: Page, key: str) -> None:
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Use this key").click()


def expect_images(page: Page) -> None:
    expect(page.locator(".wall .tile.is-loaded").first).to_be_visible()


def test_asks_for_a_key_and_keeps_it_for_the_tab(open_page, guarded, faults):
    server, keys = guarded
    page = open_page("/#model=gan-mnist", of=server)
    expect(page.get_by_role("heading", name="This service needs a key")).to_be_visible()
    enter_key(page, "gnm_wrong")
    expect(page.get_by_text("unknown, revoked or expired")).to_be_visible()
    enter_key(page, keys["plain"])
    expect_images(page)
    page.reload()
    expect_images(page)
    page.locator(".wall .tile-image").first.click()
    curl = page.get_by_role("group", name="curl")
    expect(curl).to_contain_text("Bearer $GANYMEDE_API_KEY")
    assert keys["plain"] not in page.content()
    assert page.evaluate("JSON.stringify(localStorage)").find("gnm_") == -1
    faults.expect("401")


def test_says_what_to_do_without_a_key(open_page, guarded, faults):
    server, keys = guarded
    page = open_page("/", of=server)
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("The models cannot be listed")
    page.get_by_role("button", name="Try again").click()
    enter_key(page, keys["plain"])
    expect_images(page)
    faults.expect("401")


def test_rate_limit_is_waited_for(open_page, guarded, faults):
    server, keys = guarded
    page = open_page("/#model=gan-mnist", of=server)
    enter_key(page, keys["poor"])
    expect_images(page)
    waiting = page.locator("#wait")
    expect(waiting).to_contain_text("The rate limit is reached.")
    expect(waiting).to_contain_text(re.compile(r"Trying again in \d+ s"))
    faults.expect("401")
    faults.expect("429")


def test_failed_model_shows_its_reason(open_page, guarded, faults):
    server, keys = guarded
    page = open_page("/", of=server)
    enter_key(page, keys["plain"])
    # The page begins with the model that works.
    expect(page.get_by_role("heading", level=1)).to_have_text("gan-mnist")
    card = page.get_by_role("navigation", name="Models").get_by_role("button", name="dcgan-fashion")
    expect(card).to_contain_text("cannot be served")
    card.click()
    with server.client(headers={"x-api-key": keys["plain"]}) as client:
        reason = client.get("/v1/models/dcgan-fashion").json()["reason"]
    alert = page.locator("#panel").get_by_role("alert")
    expect(alert).to_contain_text("This model cannot be served")
    expect(alert).to_contain_text(reason[1:])
    faults.expect("401")
