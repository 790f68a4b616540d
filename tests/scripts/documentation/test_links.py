"""Links between files of the repository become links between pages of the site."""

from pathlib import PurePosixPath

import pytest

from scripts.documentation.links import is_inside, rewrite_links, site_path


@pytest.mark.parametrize(
    ("page", "text", "expected", "used"),
    [
        ("docs/a.md", "[b](b.md#top)", "[b](b.md#top)", ["docs/b.md"]),
        (
            "docs/a.md",
            "![x](../models/m/1/preview.webp)",
            "![x](repository/models/m/1/preview.webp)",
            ["models/m/1/preview.webp"],
        ),
        (
            "docs/tutorials/a.md",
            '<img src="../../models/m.webp" width="4">',
            '<img src="../repository/models/m.webp" width="4">',
            ["models/m.webp"],
        ),
        (
            "benchmarks/README.md",
            "[a](../docs/a.md) [b](load.py)",
            "[a](../../a.md) [b](load.py)",
            ["docs/a.md", "benchmarks/load.py"],
        ),
        ("docs/a.md", "[x](https://x.org/y) [y](#z)", "[x](https://x.org/y) [y](#z)", []),
        ("docs/a.md", "`[b](b.md)`\n```sh\n[c](c.md)\n```\n", None, []),
    ],
)
def test_links_are_rewritten(page, text, expected, used):
    found = []
    result = rewrite_links(text, PurePosixPath(page), found.append)
    assert result == (text if expected is None else expected)
    assert found == [PurePosixPath(each) for each in used]


def test_docs_is_the_root_of_the_site():
    assert site_path(PurePosixPath("docs/tutorials/a.md")) == PurePosixPath("tutorials/a.md")
    assert site_path(PurePosixPath("README.md")) == PurePosixPath("repository/README.md")


def test_only_existing_files_of_the_repository_can_be_linked(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.md").touch()
    assert is_inside(PurePosixPath("a/b.md"), tmp_path)
    assert not is_inside(PurePosixPath("a"), tmp_path)
    assert not is_inside(PurePosixPath("a/c.md"), tmp_path)
    assert not is_inside(PurePosixPath("../b.md"), tmp_path / "a")
