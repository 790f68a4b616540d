"""Links between pages that are files of the repository, and where these files are on the site."""

import os
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath

_CODE = re.compile(r"(^```.*?^```$|`[^`\n]*`)", re.MULTILINE | re.DOTALL)
# A link or an image in Markdown, or an attribute of inline HTML.
_LINK = re.compile(r"(?P<open>\]\(|(?:src|href)=\")(?P<target>[^)\"\s#]+)(?P<anchor>#[^)\"\s]*)?")
_EXTERNAL = re.compile(r"[a-z]+:")


def site_path(file: PurePosixPath) -> PurePosixPath:
    """Return the path on the site of a file of the repository: docs/ is the root of the site."""
    if file.parts[0] == "docs":
        return file.relative_to("docs")
    return "repository" / file


def rewrite_links(text: str, page: PurePosixPath, use: Callable[[PurePosixPath], None]) -> str:
    """Return the Markdown of `page`, with links to files of the repository as links on the site.

    Paths are relative to the repository. `use` is called with each file that the page links to.
    """

    def rewrite(match: re.Match[str]) -> str:
        target = match["target"]
        if _EXTERNAL.match(target):
            return match[0]
        file = PurePosixPath(os.path.normpath(page.parent / target))
        use(file)
        link = os.path.relpath(site_path(file), site_path(page).parent)
        return f"{match['open']}{link}{match['anchor'] or ''}"

    parts = _CODE.split(text)
    # Every second part is code.
    parts[::2] = [_LINK.sub(rewrite, part) for part in parts[::2]]
    return "".join(parts)


def is_inside(file: PurePosixPath, root: Path) -> bool:
    """True if a path that was written in a page is an existing file of the repository."""
    return ".." not in file.parts and (root / file).is_file()
