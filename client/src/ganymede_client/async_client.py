"""The client for asyncio."""

from __future__ import annotations

import asyncio
import copy
import functools
from collections.abc import AsyncIterator, Callable, Coroutine
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar

import httpx

from ganymede_client import flows, routes
from ganymede_client.connection import Connection
from ganymede_client.errors import GanymedeError
from ganymede_client.flows import Exchange, Flow, Pause, Step
from ganymede_client.provenance import address
from ganymede_client.retries import RetryPolicy
from ganymede_client.routes.job_events import JobFollower
from ganymede_client.routes.text import TextFollower
from ganymede_client.signatures import with_signature
from ganymede_client.wire.calls import Call, Reply
from ganymede_client.wire.events import Follower

P = ParamSpec("P")
T = TypeVar("T")
E = TypeVar("E")


def _method(
    build: Callable[P, Call[T]],
) -> Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]]:
    """Return the method that sends the calls that `build` builds."""

    @functools.wraps(build)
    async def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.send(build(*args, **kwargs))

    return with_signature(method, build)


def _flow_method(
    flow: Callable[P, Flow[T]],
) -> Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]]:
    """Return the method that carries out a flow."""

    @functools.wraps(flow)
    async def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._run(flow(*args, **kwargs))

    return with_signature(method, flow)


def _events_method(
    build: Callable[P, Call[list[E]]],
    follower: Callable[[Call[list[E]], RetryPolicy], Follower[E]],
) -> Callable[Concatenate[AsyncClient, P], AsyncIterator[E]]:
    """Return the method that yields the events of a call as they arrive."""

    @functools.wraps(build)
    def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[E]:
        return self._follow(follower(build(*args, **kwargs), self._connection.retries))

    return with_signature(method, build)


class AsyncClient:
    """A client of one service for asyncio. Tasks of one event loop may share it.

    Use it as an asynchronous context manager, or await `close`, so that its connections are closed.

    Args:
        url: the address of the service; default: ``$GANYMEDE_URL``, or http://localhost:3000.
        key: an API key; default: ``$GANYMEDE_API_KEY``.
        timeout: seconds without any progress after which a request fails with RequestTimedOut.
        deadline: seconds after which the service stops working on a request; default: its own.
        priority: the priority of requests when the service is busy: high, normal or low; default:
            that of the service. A priority that the key may not ask for raises NotAllowed.
        retry_for: seconds from the first attempt within which a request is repeated, if the service
            is busy or not ready, or the connection fails; 0 to never repeat.
        http: an httpx client with further options, such as proxies or certificates. It is not
            closed.

    Raises ValueError for invalid arguments.
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        timeout: float = 120.0,
        deadline: float | None = None,
        priority: str | None = None,
        retry_for: float = 60.0,
        http: httpx.AsyncClient | None = None,
    ) -> None:
        self._connection = Connection.create(url, key, timeout, deadline, retry_for, priority)
        self._http = http or httpx.AsyncClient()
        self._closes = http is None

    generate = _method(routes.generate.generate)
    sample_classes = _method(routes.generate.sample_classes)
    audio = _method(routes.audio.audio)
    mix_styles = _method(routes.generate.mix_styles)
    mix_styles_grid = _method(routes.generate.mix_styles_grid)
    interpolate = _method(routes.generate.interpolate)
    animate = _method(routes.generate.animate)
    image = _method(routes.generate.image)
    generate_from_prompt = _method(routes.generate.generate_from_prompt)

    text = _method(routes.text.text)
    stream_text = _events_method(routes.text.stream_text, TextFollower)
    text_to_image = _method(routes.text.text_to_image)

    edit = _method(routes.latent.edit)
    edit_grid = _method(routes.latent.edit_grid)
    invert = _method(routes.latent.invert)
    direction_strip = _method(routes.latent.direction_strip)

    translate = _method(routes.image_to_image.translate)
    upscale = _method(routes.image_to_image.upscale)
    inpaint = _method(routes.image_to_image.inpaint)
    colorize = _method(routes.image_to_image.colorize)

    models = _method(routes.models.models)
    model = _method(routes.models.model)
    preview = _method(routes.models.preview)

    submit_job = _method(routes.jobs.submit_job)
    list_jobs = _method(routes.jobs.list_jobs)
    job = _method(routes.jobs.job)
    delete_job = _method(routes.jobs.delete_job)
    job_file = _method(routes.jobs.job_file)
    job_events = _events_method(routes.job_events.job_events, JobFollower)
    jobs = _flow_method(flows.jobs)
    cancel_job = _flow_method(flows.cancel_job)
    wait_for_job = _flow_method(flows.wait_for_job)
    download_job = _flow_method(flows.download_job)

    reload = _method(routes.operations.reload)
    metrics = _method(routes.operations.metrics)
    readiness = _method(routes.operations.readiness)

    inference_server = _method(routes.open_inference.inference_server)
    inference_live = _method(routes.open_inference.inference_live)
    inference_ready = _method(routes.open_inference.inference_ready)
    graphs = _method(routes.open_inference.graphs)
    graph = _method(routes.open_inference.graph)
    graph_ready = _method(routes.open_inference.graph_ready)
    graph_config = _method(routes.open_inference.graph_config)
    infer = _method(routes.open_inference.infer)

    @property
    def url(self) -> str:
        """The address of the service."""
        return self._connection.url

    def image_url(
        self,
        model: str,
        seed: int,
        extension: str = "png",
        *,
        version: str | None = None,
        class_: str | int | None = None,
        truncation: float | None = None,
    ) -> str:
        """Return the address of an image, without a request; the arguments are those of `image`."""
        return self.url + address(
            model, seed, extension, version=version, class_=class_, truncation=truncation
        )

    def with_options(
        self,
        *,
        timeout: float | None = None,
        deadline: float | None = None,
        retry_for: float | None = None,
        priority: str | None = None,
    ) -> AsyncClient:
        """Return a client with other options that shares the connections of this one."""
        changed = copy.copy(self)
        changed._connection = self._connection.changed(timeout, deadline, retry_for, priority)
        changed._closes = False
        return changed

    async def send(self, call: Call[T]) -> T:
        """Send a call, repeated if the service is busy, and return its parsed response.

        Raises the errors of `ganymede_client.errors`.
        """
        result: T = await self._run(flows.send(call, self._connection.retries))
        return result

    async def close(self) -> None:
        """Close the connections."""
        if self._closes:
            await self._http.aclose()

    async def __aenter__(self) -> AsyncClient:
        """Return the client."""
        return self

    async def __aexit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connections."""
        await self.close()

    def __repr__(self) -> str:
        """Return the address, without the key."""
        return f"AsyncClient({self.url!r})"

    async def _run(self, flow: Flow[T]) -> T:
        try:
            step = next(flow)
            while True:
                try:
                    result = await self._carry_out(step)
                except Exception as error:  # noqa: BLE001, PERF203 - the flow decides
                    step = flow.throw(error)
                else:
                    step = flow.send(result)
        except StopIteration as end:
            finished: T = end.value
            return finished
        finally:
            flow.close()

    async def _carry_out(self, step: Step) -> Any:
        if isinstance(step, Pause):
            return await asyncio.sleep(step.seconds)
        if isinstance(step, Exchange):
            return await self._exchange(step)
        return await self._run(flows.send(step, self._connection.retries))

    async def _exchange(self, step: Exchange) -> Reply:
        connection = self._connection
        request = self._http.build_request(**connection.arguments(step.request))
        try:
            response = await self._http.send(request, stream=True, follow_redirects=False)
            try:
                if step.sink is None or not response.is_success:
                    return connection.reply(response, await response.aread())
                reply = connection.reply(response, b"")
                with step.sink.opened(reply) as write:
                    async for part in response.aiter_raw():
                        write(part)
                return reply
            finally:
                await response.aclose()
        except httpx.RequestError as error:
            raise connection.error(error) from error

    async def _follow(self, follower: Follower[E]) -> AsyncIterator[E]:
        connection = self._connection
        while not follower.has_ended:
            failure: GanymedeError | None = None
            request = self._http.build_request(**connection.stream_arguments(follower.request))
            try:
                response = await self._http.send(request, stream=True, follow_redirects=False)
                try:
                    content = b"" if response.is_success else await response.aread()
                    follower.begin(connection.reply(response, content))
                    async for line in response.aiter_lines():
                        if (event := follower.feed(line)) is not None:
                            yield event
                        if follower.has_ended:
                            break
                finally:
                    await response.aclose()
            except httpx.RequestError as error:
                failure = connection.error(error)
            except GanymedeError as error:
                failure = error
            if not follower.has_ended:
                await asyncio.sleep(follower.pause(failure))
