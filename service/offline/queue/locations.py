"""Where the jobs of a service read their inputs and write their results.

Both are checked when a job is added, and again when it runs: the operator may have changed what is
allowed in the meantime.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from service.offline.inputs import Inputs, JobInputs
from service.offline.job import SamplingJob
from service.offline.ledger import Ledger
from service.offline.queue.table import QueuedJob
from service.offline.queue.uploads import SCHEME, Uploads
from service.offline.stores import Store
from service.offline.untrusted.limits import InputLimits
from service.runtime.errors import UserError
from service.url_prefixes import assert_allowed

# As botocore shows it.
_ENDPOINT = re.compile(r'"https?://[^"]*"')


class LocationRefused(UserError):
    """A location that a client chose cannot be used. Its cause is the error of the location.

    Attributes:
        field: `input`, `mask` or `output`.
    """

    def __init__(self, field_: str, cause: UserError) -> None:
        self.field = field_
        self.reason = without_endpoints(str(cause))
        super().__init__(f"{field_}: {self.reason}")


class InputsChanged(UserError):
    """The inputs of a job are not those with which it was added."""


@dataclass(frozen=True)
class LocationRules:
    """What clients may choose.

    Attributes:
        outputs, inputs: prefixes of URLs; see `service.url_prefixes`.
        max_input_pixels: pixels of an input image; a larger one is reported and has no output.
        limits: what archives of inputs may contain.
    """

    outputs: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    max_input_pixels: int | None = None
    limits: InputLimits = field(default_factory=InputLimits)


class JobLocations:
    """The locations of all jobs of one jobs folder."""

    def __init__(self, folder: Path, rules: LocationRules) -> None:
        self.rules = rules
        self.uploads = Uploads(folder / "uploads")
        self._folder = folder
        # Listing inputs can take long, and a job that makes way for others runs in several turns.
        self._opened: tuple[str, JobInputs] | None = None

    def folder(self, job_id: str) -> Path:
        """Return the folder on this machine for the results of a job."""
        return self._folder / job_id

    def assert_allowed(self, *, output: str | None, input_: str | None, mask: str | None) -> None:
        """Check the URLs that a client has chosen, without opening them. Raises LocationRefused."""
        for name, url in (("input", input_), ("mask", mask), ("output", output)):
            if url is not None:
                with _refusals(name):
                    prefixes = self.rules.outputs if name == "output" else self.rules.inputs
                    assert_allowed(url, prefixes)

    def assert_output(self, job: SamplingJob, url: str) -> None:
        """Check that a job can write to a URL, by writing and removing a small file.

        Raises LocationRefused, caused by OutputConflict or StoreError.
        """
        with _refusals("output"):
            store = Store(url)
            Ledger(store, job).is_complete()
            store.assert_writable()

    def results(self, queued: QueuedJob) -> Store:
        """Return the store for the results of a job. Raises LocationRefused and StoreError."""
        if queued.output is None:
            return Store(str(self.folder(queued.id)))
        self.assert_allowed(output=queued.output, input_=None, mask=None)
        return Store(queued.output)

    def open_inputs(self, job_id: str, url: str, mask: str | None) -> JobInputs:
        """List the inputs of a job anew.

        `url` and `mask` are URLs, or name files that were uploaded for the job `job_id`. Raises
        LocationRefused, caused by InvalidURL, URLNotAllowed, InputError or InputsRefused.
        """
        masks = None if mask is None else self._open(job_id, "mask", mask)
        images = self._open(job_id, "input", url)
        return JobInputs(images, masks, self.rules.max_input_pixels)

    def _open(self, job_id: str, name: str, url: str) -> Inputs:
        with _refusals(name):
            if url.startswith(SCHEME):
                path = self.uploads.path(job_id, name, url)
                return Inputs(str(path), label=path.name, limits=self.rules.limits)
            assert_allowed(url, self.rules.inputs)
            return Inputs(url, limits=self.rules.limits)

    def inputs(self, queued: QueuedJob) -> JobInputs | None:
        """Return the inputs of a job that runs; None if it has none.

        Raises InputsChanged, and the errors of `open_inputs`.
        """
        job = queued.job
        if job.input is None:
            return None
        if self._opened is None or self._opened[0] != queued.id:
            self.close()
            self._opened = queued.id, self.open_inputs(queued.id, job.input, job.mask)
        inputs = self._opened[1]
        if inputs.fingerprint != job.input_fingerprint:
            raise InputsChanged(
                f"the images at {job.input}, or their masks, have changed since the job was added"
            )
        return inputs

    def close(self) -> None:
        """Close the inputs of the job that ran last."""
        if self._opened is not None:
            self._opened[1].close()
            self._opened = None


def without_endpoints(message: str) -> str:
    """Return an error of a store without the address of its server, which clients do not name."""
    return _ENDPOINT.sub("of the store", message)


@contextmanager
def _refusals(name: str) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise LocationRefused(name, error) from error
