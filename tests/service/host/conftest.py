from pathlib import Path

import pytest

from tests.support.failing_models import write_failing


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> Path:
    """A repository with a model that takes seconds for an image of its class `slow`."""
    models = tmp_path_factory.mktemp("failing")
    write_failing(models / "m" / "1")
    return models
