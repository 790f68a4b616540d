"""The asynchronous client gives the results of the other one."""

import asyncio

import numpy as np
import pytest

from ganymede_client import AsyncClient, InvalidRequest, JobCancelled
from tests.support.cutting_proxy import cutting_proxy


def run(service, use, **options):
    """Return ``await use(client)``."""

    async def main():
        async with AsyncClient(service.url, **options) as client:
            return await use(client)

    return asyncio.run(main())


def test_concurrent_requests_give_the_images_of_the_client(service, client):
    async def use(many):
        calls = [many.generate("gan-mnist", seed=10 * i, n=10) for i in range(30)]
        return await asyncio.gather(*calls)

    several = run(service, use)
    expected = client.generate("gan-mnist", seeds=range(200)).numpy()
    assert np.array_equal(np.concatenate([images.numpy() for images in several])[:200], expected)


def test_images_jobs_and_state(service, client, tmp_path):
    async def use(client):
        (flower,) = await client.generate("biggan-flowers", seed=9)
        (large,) = await client.upscale("esrgan-flowers", flower)
        job = await client.submit_job("gan-mnist", count=3)
        job = await client.wait_for_job(job, timeout=60)
        paths = await client.download_job(job, tmp_path)
        assert await client.readiness()
        return large, paths

    large, paths = run(service, use)
    assert np.array_equal(
        large, client.upscale("esrgan-flowers", client.image("biggan-flowers", 9))[0]
    )
    assert "images-00000.tar" in [path.name for path in paths]


def test_events_of_a_job_arrive_until_its_end(service):
    async def use(client):
        job = await client.submit_job("gan-mnist", count=200, shard_size=100)
        return [event async for event in client.job_events(job)]

    events = run(service, use)
    assert (events[-1].kind, events[-1].job.images) == ("end", 200)


def test_errors_are_typed(service):
    async def use(client):
        with pytest.raises(InvalidRequest):
            await client.generate("dcgan-fashion", n=0)
        job = await client.submit_job("biggan-flowers", count=500_000)
        await client.cancel_job(job)
        with pytest.raises(JobCancelled):
            await client.wait_for_job(job, timeout=60)

    run(service, use)


def test_cut_connections_are_repeated(service):
    with cutting_proxy(service.url, cuts=[0, 100]) as proxy:
        images = run(proxy, lambda client: client.generate("gan-mnist", seed=3))
    assert images.seeds == [3]


def test_cancelled_task_ends_its_request(service):
    async def use(client):
        task = asyncio.create_task(client.generate("stylegan2-flowers", n=256))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return await client.generate("gan-mnist", seed=1)

    assert run(service, use).seeds == [1]
