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
import uvloop
from starlette.responses import PlainTextResponse
from uvicorn.lifespan.off import LifespanOff

from service.host.uvicorn_accept import Listener
from service.processes.server_folder import ServerFolder
from service.processes.worker_table import WorkerTable
from tests.support.crowd import request_images
from tests.support.servers import serving, wait_until, workers_of


class Worker:
    """A listener, and the state that other workers see."""

    def __init__(self, folder, socket_, *, ready=True, app=None):
        self.table = WorkerTable(folder, 2)
        self.table.join()
        self.ready = ready
        shared = ServerFolder(folder, 2)
        shared.note_stop()
        self.listener = Listener(self.table, lambda: self.ready, shared)
        self.report()
        app = app or PlainTextResponse(str(self.table.index))
        config = uvicorn.Config(app, log_config=None)
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


@pytest.mark.parametrize("count", [1, 2])
def test_waiting_connections_are_accepted_before_requests_are_served(tmp_path, count):
    seen = []

    async def app(scope, receive, send):
        seen.append(sum(int(worker.table.own["connections"]) for worker in workers))
        await PlainTextResponse("")(scope, receive, send)

    async def exchange(client):
        with client:
            return await asyncio.get_running_loop().sock_recv(client, 1000)

    async def run():
        with socket.create_server(("127.0.0.1", 0), backlog=128) as socket_:
            workers[:] = [Worker(tmp_path, socket_, app=app) for _ in range(count)]
            clients = [socket.create_connection(socket_.getsockname()) for _ in range(20)]
            for client in clients:
                client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                client.setblocking(False)
            for response in await asyncio.gather(*map(exchange, clients)):
                assert response.startswith(b"HTTP/1.1 200")
            for worker in workers:
                worker.listener.close()

    workers = []
    uvloop.run(run())
    assert seen[1] == len(seen) == 20


def test_connections_beyond_the_share_are_closed(tmp_path):
    async def run():
        async with two_workers(tmp_path, True, False) as (workers, connect):
            assert [await connect() for _ in range(9)] == [0] * 9
            assert [worker.listener.excess() for worker in workers] == [0, 0]
            workers[1].ready = True
            workers[1].report()
            assert workers[0].listener.excess() > 0
            assert workers[1].listener.excess() == 0

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


def test_worker_that_is_not_ready_leaves_connections_to_one_that_pauses(tmp_path):
    async def run():
        async with two_workers(tmp_path, False, True) as (workers, connect):
            # No turn of its loop for three seconds, as on a busy machine.
            pausing, turn = workers[1], workers[1].report
            pausing.report = lambda: None
            pausing.table.own["beat"] = time.monotonic() - 3
            pausing.listener.close()
            waiting = asyncio.create_task(connect())
            done, _ = await asyncio.wait([waiting], timeout=0.3)
            assert not done
            # It ends: nobody else is ready.
            pausing.ready = False
            turn()
            assert await waiting == 0

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


def connections_of(worker):
    return sum(each.status == psutil.CONN_ESTABLISHED for each in worker.net_connections("tcp"))


def test_processes_share_the_connections(server):
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(server.client()) for _ in range(16)]

        def are_shared():
            statuses = {request_images(client).status_code for client in clients}
            return statuses == {200} and min(map(connections_of, workers_of(server))) >= 4

        wait_until(are_shared)


@pytest.mark.slow
def test_kept_connections_move_to_a_replaced_worker(server):
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(server.client()) for _ in range(16)]
        worker, other = workers_of(server)
        worker.kill()
        worker.wait(10)

        def are_served_by_the_new_one():
            for client in clients:
                # A connection to the dead worker cannot be used any more.
                with contextlib.suppress(httpx.TransportError):
                    assert request_images(client).status_code == 200
            workers = workers_of(server)
            return len(workers) == 2 and min(map(connections_of, workers)) >= 4

        wait_until(are_served_by_the_new_one)
        assert other in workers_of(server)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_others_serve_on_while_a_dead_worker_is_replaced(server, number):
    dead, alive = workers_of(server)
    dead.send_signal(number)
    dead.wait(10)
    while len(workers := workers_of(server)) < 2 or server.logged().count('"ready:') < 3:
        # Each request has a connection of its own.
        with server.client() as client:
            for response in (request_images(client), client.get("/readyz")):
                assert response.status_code == 200, (response.text, server.logged())
    assert alive in workers
    assert dead not in workers
