"""Makes the supervisor process notice dead workers at once, and stop within a bounded time.

Faults: `bentoml serve` runs the workers as children of circus's arbiter. The arbiter checks for
dead workers only every ten seconds and loses signals that arrive while it is busy. While it is
stopping, it ignores a second signal, and waits up to a day for the workers.

The supervisor also creates the folder that the workers of this server share, and removes it.

Seen in: bentoml 1.4.39, circus 0.18.3 (distribution kantoku).
Shown by: tests/service/host/test_circus_supervisor.py.
Can go when: those tests pass without it.
"""

from __future__ import annotations

import atexit
import logging
import os
import signal
import sys
from typing import Any

from service.processes.server_folder import ServerFolder

log = logging.getLogger("ganymede.supervisor")

# Seconds after the end of the drain time until the worker is killed.
_KILL_DELAY_S = 10.0
# Seconds between checks: short, but a worker that dies at every start must not use a whole CPU.
_RESPAWN_DELAY_S = 1.0
_RETRY_S = 0.1
_WORKER_MODULE = "_bentoml_impl.worker.service"


def supervise_workers(size: int, drain_s: float) -> None:
    """Patch circus's signal handling in this process, unless it is a worker.

    Must be called before the arbiter installs its signal handlers. There are at most `size`
    workers. They are killed if they have not ended `drain_s` + 10 seconds after the first signal,
    and at once on a second signal.
    """
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is not None and spec.name == _WORKER_MODULE:
        return
    # Imported lazily: it takes a quarter of a second, and the worker does not need it.
    import circus.controller  # noqa: PLC0415
    from circus.exc import ConflictError  # noqa: PLC0415
    from circus.sighandler import SysHandler  # noqa: PLC0415

    class BoundedStop(SysHandler):  # type: ignore[misc]
        """SIGTERM and SIGINT stop the arbiter; a second one kills the workers."""

        def __init__(self, controller: Any) -> None:
            self._stop_signals = 0
            self._folder = ServerFolder.create(size)
            atexit.register(self._folder.remove)
            for watcher in controller.arbiter.iter_watchers():
                watcher.env.update(self._folder.environment())
            super().__init__(controller)

        def _register(self) -> None:
            super()._register()
            self._old[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, self._on_child_exit)

        def _on_child_exit(self, *_: object) -> None:
            loop = self.controller.loop
            loop.add_callback_from_signal(loop.call_later, _RESPAWN_DELAY_S, self._respawn)

        def _respawn(self) -> None:
            try:
                self.controller.arbiter.manage_watchers()
            except ConflictError:
                self.controller.loop.call_later(_RETRY_S, self._respawn)

        def quit(self) -> None:
            self._stop_signals += 1
            if self._stop_signals > 1:
                self._kill_workers()
                return
            self._folder.note_stop()
            loop = self.controller.loop
            kill_after = drain_s + _KILL_DELAY_S
            loop.add_callback_from_signal(loop.call_later, kill_after, self._kill_workers)
            loop.add_callback_from_signal(self._quit)

        def _quit(self) -> None:
            # While it executes another command, the arbiter silently ignores this one: retry.
            if not self.controller.arbiter._stopping:
                super().quit()
                self.controller.loop.call_later(_RETRY_S, self._quit)

        def _kill_workers(self) -> None:
            for watcher in self.controller.arbiter.iter_watchers():
                for pid in watcher.get_active_pids():
                    log.warning("killing worker %d", pid)
                    os.kill(pid, signal.SIGKILL)

    circus.controller.SysHandler = BoundedStop
