"""Files on the Hugging Face hub.

The endpoint and the token come from the hub's own settings, ``HF_ENDPOINT`` and ``HF_TOKEN`` or
``hf auth login``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from types import ModuleType

from service.pull.checksums import Checksum, Kind
from service.pull.http import HttpFile
from service.pull.locations import HubPath
from service.pull.transfer import DownloadFailed
from service.runtime.errors import first_line

_EXTRA = "pip install 'ganymede[remote]'"
_HINT = "for a private or gated repository, set HF_TOKEN or run hf auth login"


@dataclass(frozen=True)
class HubFile:
    """A file of a repository: its size, and the checksum that the hub states."""

    path: str
    size: int
    checksum: Checksum


def hub_file(path: HubPath) -> HttpFile:
    """Return a file on the hub. Raises DownloadFailed if huggingface_hub is not installed."""
    hub = _library()
    url = hub.hf_hub_url(path.repo, path.path, revision=path.revision)
    return HttpFile(url, hub.utils.build_hf_headers(library_name="ganymede"), _HINT)


def list_files(path: HubPath) -> list[HubFile]:
    """Return the files below a path of a repository. Raises DownloadFailed."""
    hub = _library()
    try:
        entries = list(
            hub.HfApi().list_repo_tree(
                path.repo, path.path or None, recursive=True, revision=path.revision
            )
        )
    except Exception as error:
        # The library raises errors of its own, of HTTP and of the system.
        raise DownloadFailed(
            f"hf://{path.repo}@{path.revision}/{path.path}: {first_line(error)}; {_HINT}"
        ) from error
    root = PurePosixPath(path.path)
    return [
        HubFile(
            str(PurePosixPath(each.path).relative_to(root)),
            each.size,
            Checksum(Kind.SHA256, each.lfs.sha256)
            if each.lfs
            else Checksum(Kind.GIT_BLOB, each.blob_id),
        )
        for each in entries
        if isinstance(each, hub.hf_api.RepoFile)
    ]


def _library() -> ModuleType:
    try:
        import huggingface_hub  # noqa: PLC0415 - slow, and part of an extra
        import huggingface_hub.hf_api  # noqa: PLC0415
        import huggingface_hub.utils  # noqa: PLC0415
    except ImportError as error:
        raise DownloadFailed(f"hf:// needs huggingface_hub: {_EXTRA}") from error
    return huggingface_hub
