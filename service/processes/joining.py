"""How a new process joins the processes of its server."""

from __future__ import annotations

from service.processes.server_folder import ServerFolder
from service.processes.shared_metrics import share_metrics
from service.processes.worker_table import WorkerTable


def join_server() -> tuple[ServerFolder, WorkerTable]:
    """Take a row in the table of this server's workers, and share the metrics if it has several.

    Returns the server's folder and the table.

    Must be called before a metric is created. Raises OSError, and RuntimeError if the server has
    all its workers.
    """
    folder = ServerFolder.of_this_server()
    table = WorkerTable(folder.path, folder.size)
    table.join()
    if table.size > 1:
        share_metrics(table)
    return folder, table
