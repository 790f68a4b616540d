"""A real browser for tests of the web pages: where it is, and what may not happen in a page."""

import io
import shutil
from dataclasses import dataclass, field

import numpy as np
from playwright.sync_api import BrowserContext, ConsoleMessage, Page, Request

from tests.support.servers import Server

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
# The tests run as root in containers, where Chromium's sandbox does not start.
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")
# Generous, because other tests may use all CPUs.
TIMEOUT_MS = 30_000

DESKTOP = (1440, 900)
TABLET = (820, 1180)
PHONE = (390, 844)

# Resolves when no transition runs any more: colors have less contrast during one.
_SETTLED = """() => Promise.all(
  document.getAnimations()
    .filter((each) => Number.isFinite(each.effect.getComputedTiming().endTime))
    .map((each) => each.finished.catch(() => null)),
).then(() => null)"""
_OWN_SCHEMES = ("blob:", "data:", "about:")


@dataclass
class Faults:
    """What went wrong in the pages of a test: errors of the console, requests to other hosts."""

    lines: list[str] = field(default_factory=list)

    def watch(self, context: BrowserContext, origin: str) -> None:
        """Record the faults of all pages of `context`, which belong to the server at `origin`."""

        def on_console(message: ConsoleMessage) -> None:
            if message.type == "error":
                self.lines.append(f"{message.text} ({message.location.get('url', '')})")

        def on_request(request: Request) -> None:
            if not request.url.startswith((f"{origin}/", *_OWN_SCHEMES)):
                self.lines.append(f"request to another host: {request.url}")

        context.on("console", on_console)
        context.on("request", on_request)
        context.on("weberror", lambda error: self.lines.append(f"uncaught: {error.error}"))

    def expect(self, text: str) -> None:
        """Accept the faults with `text`, of which there must be at least one."""
        expected = [line for line in self.lines if text in line]
        assert expected, f"no fault with {text!r}: {self.lines}"
        self.lines = [line for line in self.lines if line not in expected]


def accessibility_violations(page: Page) -> list[str]:
    """Return the elements of a page that violate rules of axe-core, each with the reason."""
    from axe_playwright_python.sync_playwright import Axe

    page.evaluate(_SETTLED)
    return [
        f"{rule['id']}: {node['target']}: {node['failureSummary']}"
        for rule in Axe().run(page).response["violations"]
        for node in rule["nodes"]
    ]


def set_slider(page: Page, name: str, value: float) -> None:
    """Move a slider as a drag does."""
    page.get_by_role("slider", name=name).fill(str(value))


def image_pixels(page: Page, selector: str) -> np.ndarray:
    """The pixels of an image in the page as `uint8 [H, W, 3]`."""
    image = page.locator(selector)
    page.wait_for_function("image => image.naturalWidth > 0", arg=image.element_handle())
    data, width, height = image.evaluate(
        """image => {
          const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);
          const context = canvas.getContext('2d');
          context.drawImage(image, 0, 0);
          const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
          return [[...data], canvas.width, canvas.height];
        }"""
    )
    return np.array(data, np.uint8).reshape(height, width, 4)[..., :3]


def served_pixels(server: Server, path: str, body: dict) -> np.ndarray:
    """The images ``[N, H, W, C] uint8`` that `server` generates for a request."""
    with server.client() as client:
        response = client.post(path, json=body | {"format": "npy"}).raise_for_status()
    return np.load(io.BytesIO(response.content))
