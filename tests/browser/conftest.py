"""A browser and a server with the included models.

Both live as long as the tests of this folder, not longer: Playwright keeps an event loop running
in the thread, in which other tests could not start theirs.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="Playwright is missing: make install")

from playwright.sync_api import Browser, Page, expect, sync_playwright

from service.runtime.models.manifest import MANIFEST_FILE
from service.runtime.models.parts.additions import SelectionFigure
from tests.support.browser import ARGUMENTS, CHROMIUM, DESKTOP, TIMEOUT_MS, Faults
from tests.support.latent_models import write_latent_models
from tests.support.output_models import write_preview
from tests.support.scored_models import add_brightness_score
from tests.support.servers import Server, serving

MODELS = Path(__file__).parents[2] / "models"

expect.set_options(timeout=TIMEOUT_MS)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without Chromium, skip one test for all, so that the report has one line about it."""
    ours = [item for item in items if Path(__file__).parent in item.path.parents]
    if CHROMIUM is not None or not ours:
        return
    ours[0].add_marker(pytest.mark.skip(reason="Chromium is missing: apt install chromium"))
    config.hook.pytest_deselected(items=ours[1:])
    items[:] = [item for item in items if item not in ours[1:]]


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def server(browser) -> Iterator[Server]:  # Not started if there is no browser.
    """The real service with the included models. Tests must not stop it."""
    with serving(MODELS) as server:
        yield server


@pytest.fixture(scope="package")
def latent_server(browser, tmp_path_factory) -> Iterator[Server]:
    """The real service with the models of latent_models.py. Tests must not stop it.

    `movable` also has a discriminator: brighter images score higher.
    """
    models = tmp_path_factory.mktemp("latent")
    write_latent_models(models)
    figures = [
        SelectionFigure(
            method="rank",
            share=share,
            kernel_distance=0.012 * share,
            precision=1 - share / 2,
            recall=share / 2,
            samples=100,
            candidates=round(100 / share),
            reference="none",
            feature_network="none",
        )
        for share in (1, 0.25)
    ]
    add_brightness_score(models / "movable" / "1", figures=tuple(figures))
    for manifest in models.glob(f"*/*/{MANIFEST_FILE}"):
        write_preview(manifest.parent)
    with serving(models, "--processes", "1") as server:
        yield server


@pytest.fixture
def faults() -> Faults:
    """What went wrong in the pages of the test, which fails if anything did.

    A test that provokes an error calls `faults.expect` with a part of its text.
    """
    return Faults()


@pytest.fixture
def open_page(browser, server, faults) -> Iterator[Callable[..., Page]]:
    """Open `path` in a new browser context, with the options of `Browser.new_context`.

    `of` is another server than the one with the included models.
    """
    with contextlib.ExitStack() as stack:
        pages = []

        def open_page(
            path: str = "/", *, of: Server = server, size: tuple[int, int] = DESKTOP, **options
        ) -> Page:
            width, height = size
            context = browser.new_context(
                base_url=of.url, viewport={"width": width, "height": height}, **options
            )
            stack.callback(context.close)
            context.set_default_timeout(TIMEOUT_MS)
            faults.watch(context, of.url)
            page = context.new_page()
            pages.append(page)
            page.goto(path)
            return page

        yield open_page
        # Events arrive during calls only.
        for page in pages:
            if not page.is_closed():
                page.evaluate("0")
    assert faults.lines == []


@pytest.fixture
def page(open_page) -> Page:
    """The playground in a window of a desktop computer."""
    return open_page("/")
