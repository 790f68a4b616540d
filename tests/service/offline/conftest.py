"""Jobs for the small models of tests/support/drawn_models.py."""

import pytest

from service.offline.job import make_job
from service.runtime.models.manifest import read_manifest


@pytest.fixture
def manifest_of(drawn_repository):
    def read(name):
        return read_manifest(drawn_repository / name / "1")

    return read


@pytest.fixture
def job_of(manifest_of):
    def make(name="painted-classes", **options):
        return make_job(manifest_of(name), **{"count": 10} | options)

    return make
