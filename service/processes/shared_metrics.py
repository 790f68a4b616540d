"""Prometheus metrics of all processes of a server, so that any of them can respond to a scrape.

Each process keeps its values in files of its own (the multiprocess mode of `prometheus_client`),
named after its row in the table of workers. A worker that replaces a dead one continues its files,
so counters and histograms never decrease and no files pile up. Gauges of dead workers are left out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import prometheus_client
import prometheus_client.values
from prometheus_client import PLATFORM_COLLECTOR, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from service.processes.worker_table import WorkerTable

_LIVE = "gauge_live"


def share_metrics(table: WorkerTable) -> None:
    """Keep the metrics that are created from now on in files that all processes can read.

    This process must have joined the table, and must not have created a metric yet.
    """
    folder, index = _folder(table), table.index
    folder.mkdir(exist_ok=True)
    for path in folder.glob(f"{_LIVE}*_{index}.db"):
        # Of the dead worker that had this row.
        path.unlink(missing_ok=True)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
    shared_values = prometheus_client.values.MultiProcessValue
    prometheus_client.values.ValueClass = shared_values(  # type: ignore[no-untyped-call]
        lambda: index
    )


class SharedMetrics(Collector):
    """The metrics of all processes. Counters and histograms include those of dead workers."""

    def __init__(self, table: WorkerTable, supervisor: int | None = None) -> None:
        """`supervisor` is the id of the workers' parent process; default: this process's parent."""
        self._table = table
        self._supervisor = os.getppid() if supervisor is None else supervisor

    def collect(self) -> Iterator[Metric]:
        """Return the metrics, merged."""
        living = self._table.living_indices()
        files = [
            str(path)
            for path in sorted(_folder(self._table).glob("*.db"))
            if not path.name.startswith(_LIVE) or _index(path) in living
        ]
        yield from MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call]
        yield from PLATFORM_COLLECTOR.collect()
        yield from _process_metrics(self._table.column("pid").tolist(), self._supervisor)


def _folder(table: WorkerTable) -> Path:
    return table.folder / "metrics"


def _index(path: Path) -> int:
    return int(path.stem.rpartition("_")[2])


def _process_metrics(pids: list[int], parent: int) -> Iterator[Metric]:
    """Return the metrics of the workers `pids` of `parent` together, as one process has them.

    Values are sums. The start time is that of the newest worker, so that it changes if one is
    replaced. CPU time includes workers that have died, which the parent's includes.
    """
    while True:
        # A worker that is reaped in between would count twice or not at all.
        ended_s = _ended_children_s(parent)
        sums = _sums_of_living(pids, parent)
        if _ended_children_s(parent) == ended_s:
            break
    if (cpu := sums.get("process_cpu_seconds")) is not None:
        sample = cpu.samples[0]
        # Whole clock ticks: a sum of floats can be less than the sum in another order, and a
        # counter that decreases reads as a restart.
        ticks_per_s = os.sysconf("SC_CLK_TCK")
        ticks = round((sample.value + ended_s) * ticks_per_s)
        cpu.samples = [sample._replace(value=ticks / ticks_per_s)]
    yield from sums.values()


def _sums_of_living(pids: list[int], parent: int) -> dict[str, Metric]:
    sums: dict[str, Metric] = {}
    for pid in pids:
        if not pid or _parent_of(pid) != parent:
            # The row was never used, or the process has died and its number is used by another.
            continue
        for metric in ProcessCollector(pid=partial(int, pid), registry=None).collect():
            if (total := sums.get(metric.name)) is None:
                sums[metric.name] = metric
                continue
            value = metric.samples[0].value
            before = total.samples[0]
            is_start = metric.name == "process_start_time_seconds"
            value = max(before.value, value) if is_start else before.value + value
            total.samples = [before._replace(value=value)]
    return sums


def _stat(pid: int) -> list[bytes]:
    """Return the fields of /proc/PID/stat from the third; an empty list if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return []


def _parent_of(pid: int) -> int | None:
    fields = _stat(pid)
    return int(fields[1]) if fields else None


def _ended_children_s(pid: int) -> float:
    """Return the CPU time in seconds of the ended children of a process."""
    fields = _stat(pid)
    if not fields:
        return 0.0
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")
