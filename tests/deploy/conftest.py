"""The small models and their server, as the tests of the service have them."""

from tests.service.conftest import drawn_repository, drawn_server

__all__ = ["drawn_repository", "drawn_server"]
