"""The site is built from the documentation, without anything from other hosts."""

import re
import shutil
from pathlib import Path

import pytest

from scripts.documentation.site import ROOT, SiteError, assemble, build_site

# Loaded by the browser, in contrast to links that a reader follows.
LOADED = re.compile(r"<(?:script|img|iframe|source)[^>]+src=\"?(https?:[^\"\s>]+)|<link[^>]*>")


def copy_of_docs(folder: Path) -> Path:
    """A repository with a copy of docs/ that a test may change."""
    for path in ROOT.iterdir():
        if path.name not in ("docs", "build"):
            (folder / path.name).symlink_to(path)
    shutil.copytree(ROOT / "docs", folder / "docs")
    return folder


def test_a_link_to_a_missing_file_is_an_error(tmp_path):
    root = copy_of_docs(tmp_path)
    with (root / "docs" / "zoo.md").open("a") as page:
        page.write("\n[gone](../service/gone.py)\n")
    with pytest.raises(SiteError, match=r"docs/zoo\.md: there is no file service/gone\.py"):
        assemble(tmp_path / "pages", root)


@pytest.mark.slow
def test_site_is_complete_and_loads_nothing_from_other_hosts(tmp_path):
    build_site(tmp_path / "site")
    pages = sorted((tmp_path / "site").rglob("*.html"))
    names = {str(page.relative_to(tmp_path / "site")) for page in pages}
    assert {f"{page.stem}.html" for page in (ROOT / "docs").glob("*.md")} <= names
    assert {"reference/http.html", "repository/models/gan-mnist/1/index.html"} <= names
    for page in pages:
        text = page.read_text()
        for match in LOADED.finditer(text):
            if match[1]:
                raise AssertionError(f"{page} loads {match[1]}")
            if re.search(r"rel=\"?(?:stylesheet|preconnect|preload)", match[0]):
                assert not re.search(r"href=\"?https?:", match[0]), f"{page}: {match[0]}"
    for style in (tmp_path / "site").rglob("*.css"):
        assert not re.search(r"(?:url\(|@import )[\"']?https?:", style.read_text()), style


@pytest.mark.slow
def test_a_link_to_a_missing_heading_is_an_error(tmp_path):
    root = copy_of_docs(tmp_path)
    with (root / "docs" / "zoo.md").open("a") as page:
        page.write("\n[gone](http.md#gone)\n")
    with pytest.raises(SiteError, match="gone"):
        build_site(tmp_path / "site", root)
