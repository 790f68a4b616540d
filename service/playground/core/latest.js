/** Calls for controls that are dragged: only the newest, or only the last one. */

/** How long a superseded call may go on, in milliseconds. */
const PATIENCE_MS = 150;

/**
 * Returns a function that starts `task(argument, signal)`.
 *
 * While a task runs, a further call replaces the argument that waits. The running task is aborted
 * once it has had PATIENCE_MS: aborting it at once would mean that nothing ever arrives while a
 * control is dragged faster than the service responds. Tasks handle their own errors.
 * `run.cancel()` aborts everything.
 */
export function latest(task) {
  let running = null;
  let waiting = null;

  async function start(argument) {
    const controller = new AbortController();
    const current = { controller, started: performance.now(), timer: 0 };
    running = current;
    try {
      await task(argument, controller.signal);
    } finally {
      clearTimeout(current.timer);
      if (running === current) {
        running = null;
        const next = waiting;
        waiting = null;
        if (next) start(next.argument);
      }
    }
  }

  function run(argument) {
    if (!running) {
      start(argument);
      return;
    }
    waiting = { argument };
    if (running.timer) return;
    const current = running;
    const left = PATIENCE_MS - (performance.now() - current.started);
    current.timer = setTimeout(() => current.controller.abort(), Math.max(0, left));
  }

  run.cancel = () => {
    waiting = null;
    running?.controller.abort();
  };
  return run;
}

/** Returns a function that calls `run` when it has not been called for `milliseconds`. */
export function settled(run, milliseconds = 200) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(run, milliseconds);
  };
}
