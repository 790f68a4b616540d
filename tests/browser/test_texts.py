"""The panel of texts: shown as they are generated, and stopped on request."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.support.browser import DESKTOP, PHONE, accessibility_violations, set_slider
from tests.support.output_models import TEXT_MODEL, write_text
from tests.support.servers import Server, serving

CLIENT = Path(__file__).parents[2] / "client" / "src"
VIEW = f"/#model={TEXT_MODEL}&panel=text&seed=5&temperature=0.8&prefix=ab"
# Takes seconds.
LONG = 20_000


@pytest.fixture(scope="module")
def long_server(browser, tmp_path_factory) -> Iterator[Server]:
    """The real service with a model whose texts are long."""
    models = tmp_path_factory.mktemp("long")
    write_text(models / "endless" / "1", LONG, ends=False)
    with serving(models, "--processes", "1") as server:
        yield server


@pytest.fixture
def page(open_page, output_server) -> Page:
    return open_page(VIEW, of=output_server)


def texts(server: Server, **fields) -> list[str]:
    body = {"model": TEXT_MODEL, "seed": 5, "n": 4, "temperature": 0.8, "prefix": "ab"} | fields
    with server.client() as client:
        return [each["text"] for each in client.post("/v1/text", json=body).json()["texts"]]


def shown(page: Page):
    return page.locator(".text-output")


def test_texts_are_those_of_the_route(page, output_server):
    expect(shown(page)).to_have_text(texts(output_server))
    expect(page.locator(".text-name")).to_have_text([f"Seed {seed}" for seed in range(5, 9)])
    expect(page.get_by_role("status").filter(has_text="4 texts.")).to_be_visible()


def test_controls_change_texts_and_address(page, open_page, output_server):
    set_slider(page, "Temperature", 0)
    set_slider(page, "Maximum length", 3)
    page.get_by_label("Prefix").fill("ca")
    page.get_by_role("radio", name="1", exact=True).check()
    expected = texts(output_server, n=1, temperature=0, prefix="ca", max_length=3)
    expect(shown(page)).to_have_text(expected)
    page.wait_for_function("() => location.hash.includes('n=1')")
    again = open_page("/" + page.evaluate("location.hash"), of=output_server)
    expect(shown(again)).to_have_text(expected)
    expect(again.get_by_label("Prefix")).to_have_value("ca")
    expect(again.get_by_role("slider", name="Temperature")).to_have_value("0")


def test_link_has_what_is_set_now(open_page, output_server):
    permissions = ["clipboard-read", "clipboard-write"]
    page = open_page(VIEW, of=output_server, permissions=permissions)
    page.get_by_label("Prefix").fill("bad")
    page.get_by_role("button", name="Copy the link").click()
    expect(page.get_by_text("The link is copied.")).to_be_visible()
    link = page.evaluate("navigator.clipboard.readText()")
    assert link.endswith("#model=babble&panel=text&seed=5&temperature=0.8&prefix=bad")


def test_stop_ends_a_text_that_streams(open_page, long_server):
    page = open_page("/#model=endless&panel=text&n=1", of=long_server)
    # A part is shown while the rest is generated.
    page.wait_for_function("() => document.querySelector('.text-output')?.textContent.length > 20")
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("Stopped.")).to_be_visible()
    part = shown(page).inner_text()
    assert 20 < len(part) < LONG
    expect(page.locator(".text-header")).to_contain_text("stopped")
    with long_server.client() as client:
        whole = client.post("/v1/text", json={"model": "endless", "seed": 0, "max_length": 30})
    assert part.startswith(whole.json()["texts"][0]["text"])

    set_slider(page, "Maximum length", 30)
    expect(shown(page)).to_have_text(whole.json()["texts"][0]["text"])
    expect(page.locator(".text-header")).to_contain_text("30 characters, cut at the maximum length")


def test_another_panel_ends_the_stream(open_page, long_server):
    page = open_page("/#model=endless&panel=text&n=1", of=long_server)
    page.wait_for_function("() => document.querySelector('.text-output')?.textContent.length > 20")
    page.evaluate("location.hash = '#panel=gallery'")
    expect(shown(page)).to_have_count(0)
    with long_server.client() as client:
        page.wait_for_timeout(500)
        metrics = client.get("/metrics").text
    (queued,) = [line for line in metrics.splitlines() if line.startswith("ganymede_queue_pixels")]
    assert float(queued.rsplit(" ", 1)[1]) == 0


def test_prefix_with_unknown_characters_is_refused(page, faults):
    expect(shown(page)).to_have_count(4)
    page.get_by_label("Prefix").fill("ab☃")
    expect(page.locator("#panel .problem")).to_contain_text("☃")
    page.get_by_label("Prefix").fill("b")
    expect(page.locator("#panel .problem")).to_be_hidden()
    expect(shown(page).first).to_contain_text("b")
    faults.expect("422")


def test_recipes_generate_the_texts(page, tmp_path):
    expect(page.get_by_text("4 texts.")).to_be_visible()
    expected = shown(page).all_inner_texts()
    page.get_by_text("Make it again", exact=True).click()
    curl, python = (
        page.get_by_role("group", name=title).locator("code").inner_text()
        for title in ("curl", "Python")
    )
    for command in (["bash", "-ec", curl], [sys.executable, "-c", python]):
        environment = {**os.environ, "PYTHONPATH": str(CLIENT)}
        run = subprocess.run(
            command, cwd=tmp_path, check=True, env=environment, capture_output=True, text=True
        )
        assert run.stdout.splitlines() == expected


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_is_accessible_and_fits(open_page, output_server, size, scheme):
    page = open_page(VIEW, of=output_server, size=size, color_scheme=scheme)
    expect(page.get_by_text("4 texts.")).to_be_visible()
    page.get_by_text("Make it again", exact=True).click()
    assert accessibility_violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
