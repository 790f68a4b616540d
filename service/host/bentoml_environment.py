"""Sets environment variables before BentoML is imported.

Faults: BentoML reports usage statistics unless `BENTOML_DO_NOT_TRACK` is set; here operators opt in
instead. BentoML also sets `PROMETHEUS_MULTIPROC_DIR` for its workers. Prometheus metrics then go to
a folder that all BentoML servers of a machine share, and that every server empties when it starts.
Only one process serves here, so its metrics stay in memory.

Seen in: bentoml 1.4.39.
Shown by: tests/service/api/test_app.py::test_second_server_does_not_clear_metrics_of_the_first.
Can go when: that test passes without it, and BentoML does not track by default.
"""

from __future__ import annotations

import os


def prepare() -> None:
    """Set the variables for this process."""
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
    os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)
