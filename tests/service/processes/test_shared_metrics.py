"""Metrics of workers that die and are replaced, without a server."""

import os

import psutil
import pytest
from prometheus_client import CollectorRegistry

from service.processes.shared_metrics import SharedMetrics
from service.processes.worker_table import WorkerTable
from tests.support.processes import joined_worker

WORKER = """
from service.processes.shared_metrics import share_metrics
share_metrics(table)
from prometheus_client import Counter, Gauge, Histogram
Counter("requests", "Requests.", ["route"]).labels("/").inc({count})
Histogram("seconds", "Seconds.", buckets=[1.0]).observe(0.5)
Gauge("queue", "Pixels.", multiprocess_mode="livesum").set({count})
"""


@pytest.fixture
def scrape(tmp_path):
    """Return the samples of all processes, as a process without metrics of its own sees them."""
    table = WorkerTable(tmp_path, 3)
    registry = CollectorRegistry()
    registry.register(SharedMetrics(table, supervisor=os.getpid()))

    def samples() -> dict[str, float]:
        return {
            sample.name + ("" if len(sample.labels) == 0 else str(sample.labels)): sample.value
            for family in registry.collect()
            for sample in family.samples
        }

    return samples


def test_sums_counters_of_all_workers_and_gauges_of_living_ones(scrape, tmp_path):
    counter = "requests_total{'route': '/'}"
    with joined_worker(tmp_path, WORKER.format(count=2)):
        with joined_worker(tmp_path, WORKER.format(count=3)):
            both = scrape()
            assert both[counter] == 5
            assert both["queue"] == 5
            assert both["seconds_count"] == 2
            assert both["seconds_bucket{'le': '1.0'}"] == 2
        one = scrape()
        assert one[counter] == 5
        assert one["seconds_count"] == 2
        assert one["queue"] == 2
        # A replacement continues the counters of the dead worker, and not its gauges.
        with joined_worker(tmp_path, WORKER.format(count=4)):
            replaced = scrape()
            assert replaced[counter] == 9
            assert replaced["queue"] == 6
            assert replaced["seconds_count"] == 3
    files = [path.name for path in (tmp_path / "metrics").iterdir()]
    assert len([name for name in files if name.startswith("counter")]) == 2


def test_process_metrics_include_all_workers(scrape, tmp_path):
    burn = "import time\nend = time.process_time() + 1\nwhile time.process_time() < end: pass"
    with joined_worker(tmp_path) as first:
        one = scrape()
        with joined_worker(tmp_path, burn) as second:
            both = scrape()
            sizes = [psutil.Process(each.pid).memory_info().rss for each in (first, second)]
            assert both["process_resident_memory_bytes"] == pytest.approx(sum(sizes), rel=0.2)
            assert both["process_max_fds"] == 2 * one["process_max_fds"]
            assert both["process_start_time_seconds"] >= one["process_start_time_seconds"]
            assert both["process_cpu_seconds_total"] >= one["process_cpu_seconds_total"] + 1
        # The CPU time of a dead worker counts on.
        assert scrape()["process_cpu_seconds_total"] >= both["process_cpu_seconds_total"]
