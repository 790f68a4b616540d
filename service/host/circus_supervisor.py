"""What BentoML's arbiter lacks: it watches the worker closely, and its stop is bounded.

The arbiter is circus's. It looks for a dead worker every ten seconds, forgets a signal that comes
while it does something else, and once it stops, hears no second one and waits for a day.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from typing import Any

log = logging.getLogger("ganymede.arbiter")

# Beyond the time that accepted work has, the worker has this to end by itself.
_GRACE_S = 10.0
# A dead worker is replaced after this: soon, but not in a circle that takes all the CPU.
_RESPAWN_S = 1.0
_RETRY_S = 0.1
_WORKER = "_bentoml_impl.worker.service"


def supervise_worker(drain_s: float) -> None:
    """Make the arbiter that this process is about to start, if it is one, end within bounds."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is not None and spec.name == _WORKER:
        return
    # A quarter of a second, which the worker need not wait for.
    import circus.controller  # noqa: PLC0415
    from circus.exc import ConflictError  # noqa: PLC0415
    from circus.sighandler import SysHandler  # noqa: PLC0415

    class BoundedStop(SysHandler):  # type: ignore[misc]
        """The arbiter's signals: SIGTERM and SIGINT stop it, and a second one at once."""

        def __init__(self, controller: Any) -> None:
            self._stops = 0
            super().__init__(controller)

        def _register(self) -> None:
            super()._register()
            self._old[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, self._on_child)

        def _on_child(self, *_: object) -> None:
            loop = self.controller.loop
            loop.add_callback_from_signal(loop.call_later, _RESPAWN_S, self._manage)

        def _manage(self) -> None:
            try:
                self.controller.arbiter.manage_watchers()
            except ConflictError:
                self.controller.loop.call_later(_RETRY_S, self._manage)

        def quit(self) -> None:
            self._stops += 1
            if self._stops > 1:
                self._kill_workers()
                return
            loop = self.controller.loop
            loop.add_callback_from_signal(loop.call_later, drain_s + _GRACE_S, self._kill_workers)
            loop.add_callback_from_signal(self._quit)

        def _quit(self) -> None:
            # It refuses while another command of its own goes on, without a word.
            if not self.controller.arbiter._stopping:
                super().quit()
                self.controller.loop.call_later(_RETRY_S, self._quit)

        def _kill_workers(self) -> None:
            for watcher in self.controller.arbiter.iter_watchers():
                for pid in watcher.get_active_pids():
                    log.warning("worker %d is killed", pid)
                    os.kill(pid, signal.SIGKILL)

    circus.controller.SysHandler = BoundedStop
