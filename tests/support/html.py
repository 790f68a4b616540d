"""Checks of HTML pages."""

import re
from html.parser import HTMLParser


class _Resources(HTMLParser):
    """Collects everything that a page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.urls, self.images = [], 0

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name in ("src", "href", "xlink:href", "srcset", "data", "poster"):
                self.urls.append(value)
        self.images += tag == "img"
        assert tag not in ("script", "link", "iframe", "base")


def assert_self_contained(page: str) -> int:
    """Check that a page loads nothing, and return the number of its images."""
    resources = _Resources()
    resources.feed(page)
    assert all(url.startswith(("data:image/png;base64,", "#")) for url in resources.urls)
    assert not re.search(r"url\((?!#)|@import(?! url)", page)
    return resources.images
