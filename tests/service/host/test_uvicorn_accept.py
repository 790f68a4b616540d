"""Connections of processes that share a listening socket.

The first tests have two listeners in one process: a table of workers does not tell them from two
processes.
"""

import asyncio
import collections
import contextlib
import signal
import socket
import time

import httpx
import psutil
import pytest
import uvicorn
from starlette.responses import PlainTextResponse
from uvicorn.lifespan.off import LifespanOff

from service.host.uvicorn_accept import Listener
from service.processes.worker_table import WorkerTable
from tests.support.crowd import request_images
from tests.support.servers import serving, wait_until


class Worker:
    """A listener, and the state that other workers see."""

    def __init__(self, folder, socket_, *, ready=True):
        self.table = WorkerTable(folder, 2)
        self.table.join()
        self.ready = ready
        self.listener = Listener(self.table, lambda: self.ready, lambda: True)
        self.report()
        config = uvicorn.Config(PlainTextResponse(str(self.table.index)), log_config=None)
        config.load()
        server = uvicorn.Server(config)
        server.lifespan = LifespanOff(config)
        self.listener.start([socket_.dup()], server)

    def report(self):
        self.table.own["ready"] = self.ready
        self.table.own["beat"] = time.monotonic()


@contextlib.asynccontextmanager
async def two_workers(folder, *ready):
    with socket.create_server(("127.0.0.1", 0)) as socket_:
        workers = [Worker(folder, socket_, ready=each) for each in ready]
        url = f"http://127.0.0.1:{socket_.getsockname()[1]}"

        async def report():
            while True:
                for worker in workers:
                    worker.report()
                await asyncio.sleep(0.02)

        reporting = asyncio.create_task(report())
        async with contextlib.AsyncExitStack() as clients:

            async def connect():
                """Open a connection, and return the index of the worker that serves it."""
                client = await clients.enter_async_context(httpx.AsyncClient(timeout=60))
                return int((await client.get(url)).text)

            yield workers, connect
        reporting.cancel()
        for worker in workers:
            worker.listener.close()


def test_each_connection_goes_to_the_worker_with_fewer(tmp_path):
    async def run():
        async with two_workers(tmp_path, True, True) as (workers, connect):
            served = collections.Counter([await connect() for _ in range(8)])
            assert served == {0: 4, 1: 4}
            assert [worker.table.own["connections"] for worker in workers] == [4, 4]
        # The clients have disconnected.
        while any(worker.table.own["connections"] for worker in workers):
            await asyncio.sleep(0.01)

    asyncio.run(run())


def test_ready_worker_accepts_although_a_busy_one_has_fewer_connections(tmp_path):
    async def run():
        async with two_workers(tmp_path, True, True) as (workers, connect):
            workers[0].listener.close()
            assert [await connect() for _ in range(3)] == [1, 1, 1]

    asyncio.run(run())


def test_worker_that_is_not_ready_accepts_only_if_no_other_is(tmp_path):
    async def run():
        async with two_workers(tmp_path, False, True) as (workers, connect):
            assert [await connect() for _ in range(4)] == [1] * 4
            workers[1].ready = False
            workers[1].report()
            workers[1].listener.close()
            assert [await connect() for _ in range(2)] == [0, 0]

    asyncio.run(run())


def test_last_worker_of_a_server_that_stops_is_known(tmp_path):
    async def run():
        async with two_workers(tmp_path, True, True) as (workers, _):
            assert [worker.listener.leave() for worker in workers] == [False, True]

    asyncio.run(run())


@pytest.fixture(scope="module")
def server(models):
    with serving(models, "--processes", "2") as server:
        wait_until(lambda: server.logged().count('"ready:') == 2)
        yield server


def workers_of(server):
    return psutil.Process(server.process.pid).children()


def connections_of(worker):
    return sum(each.status == psutil.CONN_ESTABLISHED for each in worker.net_connections("tcp"))


def test_processes_share_the_connections(server):
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(server.client()) for _ in range(16)]

        def are_shared():
            statuses = {request_images(client).status_code for client in clients}
            return statuses == {200} and min(map(connections_of, workers_of(server))) >= 4

        wait_until(are_shared)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_others_serve_on_while_a_dead_worker_is_replaced(server, number):
    dead, alive = workers_of(server)
    dead.send_signal(number)
    dead.wait(10)
    while len(workers := workers_of(server)) < 2 or server.logged().count('"ready:') < 3:
        # Each request has a connection of its own.
        with server.client() as client:
            assert request_images(client).status_code == 200
            assert client.get("/readyz").status_code == 200
    assert alive in workers
    assert dead not in workers
