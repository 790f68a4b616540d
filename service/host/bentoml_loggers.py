"""Gives the log lines of BentoML, circus and uvicorn the format of the service.

Fault: these packages install their own handlers, so that their lines have another format or appear
twice. BentoML also disables all loggers that existed before it configured its own. One of them is
the logger of asyncio, which reports exceptions of tasks that are never awaited.

Seen in: bentoml 1.4.39, circus 0.18.3 (distribution kantoku), uvicorn 0.54.0.
Shown by: tests/service/host/test_bentoml_loggers.py, and
tests/service/test_logs.py::test_all_lines_are_json_and_appear_once.
Can go when: those tests pass without it.
"""

from __future__ import annotations

import logging

_LOGGERS_WITH_HANDLERS = ("bentoml", "uvicorn", "uvicorn.error", "circus")


def take_over(*, quiet: bool = False) -> None:
    """Enable all loggers, and leave the handling of their lines to the root logger.

    With `quiet`, BentoML logs only warnings and errors: on a terminal, its lines about starting and
    stopping would repeat ours.
    """
    for logger in logging.root.manager.loggerDict.values():
        if isinstance(logger, logging.Logger):
            logger.disabled = False
    for name in _LOGGERS_WITH_HANDLERS:
        logger = logging.getLogger(name)
        logger.handlers = []
        logger.propagate = True
    logging.getLogger("bentoml").setLevel(logging.WARNING if quiet else logging.INFO)
