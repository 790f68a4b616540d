import io
import json
import logging

import pytest

from service import logs
from service.host import bentoml_loggers


@pytest.fixture
def log_output():
    """A stream that gets all log lines as JSON during the test."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    stream = io.StringIO()
    logs.configure("json", stream)
    yield stream
    root.handlers = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


def test_enables_disabled_loggers(log_output):
    logger = logging.getLogger("asyncio")
    logger.disabled = True
    bentoml_loggers.take_over()
    logger.error("an exception that was not awaited")
    assert json.loads(log_output.getvalue())["logger"] == "asyncio"


def test_replaces_handlers_of_host_loggers(log_output):
    logger = logging.getLogger("uvicorn.error")
    own = io.StringIO()
    logger.addHandler(logging.StreamHandler(own))
    logger.propagate = False
    bentoml_loggers.take_over()
    logger.error("once")
    assert own.getvalue() == ""
    assert json.loads(log_output.getvalue())["message"] == "once"
