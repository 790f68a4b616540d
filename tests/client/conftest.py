"""The real service with the included models, and clients of it."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from ganymede_client import Client
from service.api_keys import add_key
from tests.support.servers import Server, serving

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def service(tmp_path_factory) -> Server:
    """The real service with the included models. Tests must not stop it."""
    jobs = {"GANYMEDE_JOBS": str(tmp_path_factory.mktemp("jobs"))}
    with serving(ROOT / "models", "--insecure-admin", env=jobs) as server:
        yield server


@pytest.fixture
def client(service):
    with Client(service.url) as client:
        yield client


@dataclass
class KeyedService:
    """A service with keys. `slow` may generate one image of gan-mnist each second."""

    url: str
    plain: str
    slow: str


@pytest.fixture(scope="session")
def keyed_service(tmp_path_factory) -> KeyedService:
    """The real service with gan-mnist, for clients with keys."""
    folder = tmp_path_factory.mktemp("keyed")
    shutil.copytree(ROOT / "models" / "gan-mnist", folder / "models" / "gan-mnist")
    keys = folder / "keys.json"
    plain = add_key(keys, "plain")
    slow = add_key(keys, "slow", pixels_per_minute=60 * 28 * 28)
    jobs = {"GANYMEDE_JOBS": str(folder / "jobs")}
    with serving(folder / "models", "--keys", str(keys), env=jobs) as server:
        yield KeyedService(server.url, plain, slow)
