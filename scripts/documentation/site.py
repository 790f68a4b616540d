"""Assembles the pages of the site and builds it with MkDocs.

The site consists of docs/, of the files of the repository that its pages link to, such as model
cards and code, and of the reference that is generated from the code.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path, PurePosixPath

from scripts.documentation import reference
from scripts.documentation.links import is_inside, rewrite_links, site_path

ROOT = Path(__file__).parents[2]
_CONFIGURATION = "mkdocs.yml"


class SiteError(Exception):
    """The site cannot be built."""


def build_site(out: Path, root: Path = ROOT) -> None:
    """Build the site into `out`, which is replaced. Raises SiteError, for example at a broken link.

    `root` is the repository. The pages are assembled in the folder `NAME-source` beside `out`.
    """
    source = out.with_name(f"{out.name}-source").absolute()
    shutil.rmtree(source, ignore_errors=True)
    assemble(source / "pages", root)
    configuration = shutil.copy2(root / "docs" / _CONFIGURATION, source / _CONFIGURATION)
    # Not `--quiet`: it hides warnings from `--strict` as well.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    done = subprocess.run(
        [*command, "--config-file", configuration, "--site-dir", out.absolute()],
        # MkDocs and its theme print advertisements for their successors.
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SiteError(f"MkDocs failed:\n{done.stdout}{done.stderr}")


def assemble(pages: Path, root: Path = ROOT) -> None:
    """Write all pages and the files that they link to. Raises SiteError for a broken link."""
    waiting = [
        PurePosixPath(path.relative_to(root).as_posix())
        for path in sorted((root / "docs").rglob("*"))
        if path.is_file() and path.name != _CONFIGURATION
    ]
    done: set[PurePosixPath] = set()
    while waiting:
        file = waiting.pop()
        if file in done:
            continue
        done.add(file)
        copy = pages / site_path(file)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix != ".md":
            shutil.copy2(root / file, copy)
            continue
        linked: list[PurePosixPath] = []
        copy.write_text(rewrite_links((root / file).read_text(), file, linked.append))
        for target in linked:
            if not is_inside(target, root):
                raise SiteError(f"{file}: there is no file {target}")
        waiting += linked
    for name, text in reference.pages().items():
        page = pages / "reference" / name
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(text)
