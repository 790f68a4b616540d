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
# Seconds until a dead worker is replaced. If it lived for less than `_EARLY_S`, the delay doubles
# each time up to the maximum, so that workers that die at every start do not use a whole CPU.
_RESPAWN_DELAY_S, _MAX_DELAY_S = 0.1, 8.0
_EARLY_S = 30.0
_RETRY_S = 0.1
_WORKER_MODULE = "_bentoml_impl.worker.service"


def supervise_workers(size: int, drain_s: float, *, decided: bool) -> None:
    """Patch circus's signal handling in this process, unless it is a worker.

    Must be called before the arbiter installs its signal handlers. There are `size` workers; unless
    that is `decided`, a single one finds out whether more pay. They are killed if they have not
    ended `drain_s` + 10 seconds after the first signal, and at once on a second signal.
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
            self._early_deaths = 0
            self._folder = ServerFolder.create(size, decided=decided)
            atexit.register(self._remove_folder)
            for watcher in controller.arbiter.iter_watchers():
                watcher.env.update(self._folder.environment())
                self._set_workers(watcher, watcher.numprocesses)
            super().__init__(controller)

        def _remove_folder(self) -> None:
            self._folder.remove()

        def _register(self) -> None:
            super()._register()
            self._old[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, self._on_child_exit)

        def _on_child_exit(self, *_: object) -> None:
            self.controller.loop.add_callback_from_signal(self._respawn_later)

        def _respawn_later(self) -> None:
            (watcher,) = self.controller.arbiter.iter_watchers()
            if self._folder.wanted > watcher.numprocesses:
                self._start_wanted(watcher)
                return
            ages = [
                process.age()
                for process in watcher.processes.values()
                if process.pid not in watcher.get_active_pids()
            ]
            self._early_deaths += 1
            if min(ages, default=0.0) > _EARLY_S:
                self._early_deaths = 0
            delay = min(_RESPAWN_DELAY_S * 2**self._early_deaths, _MAX_DELAY_S)
            self.controller.loop.call_later(delay, self._respawn)

        def _respawn(self) -> None:
            try:
                self.controller.arbiter.manage_watchers()
            except ConflictError:
                self.controller.loop.call_later(_RETRY_S, self._respawn)

        def _start_wanted(self, watcher: Any) -> None:
            """Replace a worker that was alone by as many as it has found to pay."""
            alone, self._folder = self._folder, ServerFolder.create(self._folder.wanted)
            alone.remove()
            watcher.env.update(self._folder.environment())
            self._set_workers(watcher, self._folder.size)
            self._respawn()

        def _set_workers(self, watcher: Any, count: int) -> None:
            watcher.numprocesses = count
            # In a container, circus replaces no worker, and ends when none is left. That suits one
            # worker; of several, the others would have to do the work of those that died.
            watcher.respawn = watcher.respawn or count > 1

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
