"""Checks the versions of Python and of the installed packages, without importing them."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version

from service.doctor.findings import Finding, error, fine

_DISTRIBUTION = "ganymede"
# Packages whose versions are asked for in reports of faults.
_SHOWN = ("bentoml", "onnxruntime-gpu", "onnxruntime", "fastapi", "numpy", "pillow", "pydantic")
# Extras that add commands, with what they are for.
_EXTRAS = {
    "train": "training, import and export",
    "quality": "evaluation and search",
    "ray": "sampling on a Ray cluster",
    "remote": "models on the Hugging Face hub and in S3",
    "video": "MP4 and WebM, and films",
    "c2pa": "signing and reading of Content Credentials",
}


def check_packages() -> Iterator[Finding]:
    """Check Python, the requirements of the service, and what the extras need."""
    system = f"{platform.system()} {platform.machine()}"
    yield fine(
        "python", f"{platform.python_version()} on {system}", version=platform.python_version()
    )
    versions = {name: found for name in _SHOWN if (found := installed_version(name))}
    listed = ", ".join(f"{name} {number}" for name, number in versions.items())
    yield fine("packages", listed or "none", **versions)
    yield from check_onnxruntime(
        installed_version("onnxruntime"), installed_version("onnxruntime-gpu")
    )
    try:
        declared = requires(_DISTRIBUTION) or []
    except PackageNotFoundError:
        yield fine("requirements", "not checked: the code runs without being installed")
        return
    problems = [*unmet(declared)]
    for text, advice in problems:
        yield error("requirements", text, advice)
    if not problems:
        yield fine("requirements", "all packages have the versions that the service needs")
    for extra, purpose in _EXTRAS.items():
        yield _check_extra(declared, extra, purpose)


def check_onnxruntime(cpu: str | None, gpu: str | None) -> Iterator[Finding]:
    """Check the installed versions of the two distributions, which overwrite each other's files."""
    if cpu and gpu:
        yield error(
            "onnxruntime",
            f"onnxruntime {cpu} and onnxruntime-gpu {gpu} are both installed, and overwrite each "
            "other's files",
            f"pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu=={gpu}",
        )


def installed_version(name: str) -> str | None:
    """Return the version of an installed distribution."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def unmet(declared: list[str], extra: str = "") -> Iterator[tuple[str, str]]:
    """Yield what is wrong with the installed packages, and the command that repairs it.

    `declared` are requirements with markers (PEP 508); those of `extra` are checked, or those that
    every installation has.
    """
    from packaging.requirements import Requirement  # noqa: PLC0415 - only the check needs it

    for text in declared:
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is not None and not marker.evaluate({"extra": extra}):
            continue
        if extra and (marker is None or marker.evaluate({"extra": ""})):
            continue
        found = installed_version(requirement.name)
        wanted = f"{requirement.name}{requirement.specifier}"
        if found is None:
            yield f"{requirement.name} is not installed", f"pip install '{wanted}'"
        elif not requirement.specifier.contains(found, prereleases=True):
            yield f"{wanted} is needed, and {found} is installed", f"pip install '{wanted}'"


def _check_extra(declared: list[str], extra: str, purpose: str) -> Finding:
    problems = [text for text, _ in unmet(declared, extra)]
    install = f"pip install '{_DISTRIBUTION}[{extra}]'"
    if not problems:
        torch = installed_version("torch") if extra == "train" else None
        title = "installed" + (f", with torch {torch}" if torch else "")
        return fine(f"extra {extra}", f"{title}: {purpose}", installed=True, torch=torch)
    # Not an error: a service needs no extra.
    reason = "not installed" if len(problems) > 1 else problems[0]
    return fine(f"extra {extra}", f"{reason}; only {purpose} needs it: {install}", installed=False)
