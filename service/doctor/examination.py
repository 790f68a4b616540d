"""All checks, in the order in which they are reported."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from service.doctor.access import check_access
from service.doctor.findings import Finding, error
from service.doctor.machine import check_machine
from service.doctor.models import check_models
from service.doctor.packages import check_packages
from service.doctor.provider import check_provider
from service.doctor.storage import check_storage
from service.runtime.errors import UserError, first_line
from service.runtime.progress import StageProgress
from service.settings import load_settings

Check = Callable[[], Iterable[Finding]]


def examine(
    flags: dict[str, object], host: str, port: int, show: StageProgress, config: Path | None = None
) -> Iterator[Finding]:
    """Yield the findings of all checks. A check that fails itself is a finding, too.

    `flags` are settings that take precedence over the environment and the file `config`.
    """
    yield from _findings_of("packages", check_packages)
    yield from _findings_of("machine", check_machine)
    try:
        settings = load_settings(flags, config)
    except UserError as problem:
        advice = "correct it where it is set: a flag, a GANYMEDE_ variable, or the file of --config"
        yield error("settings", str(problem), advice)
        return
    checks: dict[str, Check] = {
        "provider": lambda: check_provider(settings.provider),
        "storage": lambda: check_storage(settings),
        "access": lambda: check_access(settings, host, port),
        "models": lambda: check_models(settings, show),
    }
    for name, check in checks.items():
        yield from _findings_of(name, check)


def _findings_of(name: str, check: Check) -> Iterator[Finding]:
    try:
        yield from check()
    except ImportError as problem:
        advice = "install it again: pip install --force-reinstall ganymede"
        yield error(name, f"a package cannot be loaded: {first_line(problem)}", advice)
    except OSError as problem:
        advice = "check the permissions of the folder, and the disk"
        yield error(name, f"{problem.filename or name}: {problem.strerror or problem}", advice)
    except Exception as problem:  # noqa: BLE001 - one check must not keep the others from running
        text = f"the check failed: {type(problem).__name__}: {first_line(problem)}"
        yield error(name, text, "please report this")
