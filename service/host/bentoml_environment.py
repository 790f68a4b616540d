"""Environment variables that must be right before BentoML is imported.

Faults: BentoML reports usage unless `BENTOML_DO_NOT_TRACK` says otherwise; here operators opt in
instead. And with `PROMETHEUS_MULTIPROC_DIR`, which BentoML sets for its workers, Prometheus metrics
go to a folder that all BentoML servers of a machine share and that each of them empties when it
starts. Only one process serves here, so its metrics stay in memory.

Seen in: bentoml 1.4.39.
Shown by: tests/service/api/test_app.py::test_second_server_keeps_metrics_of_the_first.
Can go when: that test passes without it, and BentoML does not track by default.
"""

from __future__ import annotations

import os


def prepare() -> None:
    """Set the variables for this process."""
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
    os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)
