"""Workers of a server with several processes, without the server."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_WORKER = """
import sys
from pathlib import Path
from service.processes.worker_table import WorkerTable
table = WorkerTable(Path(sys.argv[1]), int(sys.argv[2]))
table.join()
exec(sys.argv[3])
print("joined", flush=True)
sys.stdin.read()
"""


@contextmanager
def joined_worker(folder: Path, code: str = "", size: int = 3) -> Iterator[subprocess.Popen]:
    """A process that has joined the `table` in `folder` and executed `code`.

    It is killed at the end of the block.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", _WORKER, str(folder), str(size), code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "joined\n"
    try:
        yield process
    finally:
        process.kill()
        process.communicate()
