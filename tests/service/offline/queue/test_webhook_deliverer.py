"""Webhooks of ended jobs, sent to a real receiver that verifies their signatures."""

import contextlib
import sqlite3
import subprocess
import sys
import time

import pytest

from service.offline.queue.runner import JobQueue, QueueLimits
from service.offline.queue.table import Owner
from service.offline.queue.webhook_deliverer import DeliveryOutcome, WebhookDeliverer
from service.offline.queue.webhook_table import PAUSES_S
from service.webhooks.signing import SigningSecrets
from service.webhooks.targets import PermittedTargets
from tests.support.servers import wait_until
from tests.support.webhooks import new_secret, webhook_receiver

SHORT = (0.05,) * len(PAUSES_S)
DELIVERED, RETRIED, FAILED = DeliveryOutcome


@pytest.fixture
def secrets(tmp_path):
    path = tmp_path / "secrets"
    path.write_text(new_secret())
    return path


@pytest.fixture
def receiver(secrets):
    with webhook_receiver(secrets.read_text()) as receiver:
        yield receiver


@contextlib.contextmanager
def delivering(queue, secrets, *permitted, pauses_s=SHORT):
    """Deliver the webhooks of `queue`; yields the outcomes of the attempts."""
    outcomes = []
    deliverer = WebhookDeliverer(
        queue,
        PermittedTargets(permitted),
        SigningSecrets(secrets),
        count=outcomes.append,
        pauses_s=pauses_s,
    )
    deliverer.start()
    try:
        yield outcomes
    finally:
        deliverer.stop()


@pytest.fixture
def queue(tmp_path):
    queue = JobQueue(tmp_path / "jobs", None, server="one")
    queue._prepare()
    return queue


def add(queue, job, url):
    return queue.add(job, Owner(), url)


def finish(queue, queued):
    queue.table.claim(queued.id)
    queue.table.finish(queued.id, 10, 0, 500, 1.0)


def state_of(queue, queued):
    return queue.get(queued.id).webhook.state


def test_receiver_is_notified_once_the_job_has_ended(queue, job_of, secrets, receiver):
    with delivering(queue, secrets, receiver.url) as outcomes:
        done, failed, cancelled = [add(queue, job_of(), receiver.url) for _ in range(3)]
        unrelated = queue.add(job_of(), Owner())
        finish(queue, done)
        queue.table.claim(failed.id)
        queue.table.fail(failed.id, "no space")
        queue.cancel(cancelled.id)
        queue.cancel(unrelated.id)
        wait_until(lambda: len(outcomes) == 3)
    assert queue.get(unrelated.id).webhook is None
    events = {each.event["data"]["id"]: each for each in receiver.received}
    assert {job: each.event["type"] for job, each in events.items()} == {
        done.id: "job.done",
        failed.id: "job.failed",
        cancelled.id: "job.cancelled",
    }
    data = events[done.id].event["data"]
    assert (data["state"], data["images"], data["count"], data["bytes"]) == ("done", 10, 10, 500)
    assert data["url"] == f"/v1/jobs/{done.id}"
    assert events[failed.id].event["data"]["error"] == "no space"
    for queued in (done, failed, cancelled):
        webhook = queue.get(queued.id).webhook
        assert (webhook.state, webhook.attempts) == ("delivered", 1)
        assert webhook.id == events[queued.id].id
        assert webhook.delivered is not None
        assert webhook.retry_at is None


def test_failed_attempts_are_repeated_with_the_same_id(queue, job_of, secrets, receiver):
    receiver.script = [500, 429, 404, 302]
    queued = add(queue, job_of(), receiver.url)
    finish(queue, queued)
    with delivering(queue, secrets, receiver.url) as outcomes:
        wait_until(lambda: state_of(queue, queued) == "delivered")
    assert outcomes == [RETRIED] * 4 + [DELIVERED]
    assert len({each.id for each in receiver.received}) == 1
    assert len({str(each.event) for each in receiver.received}) == 1
    assert queue.get(queued.id).webhook.error is None


def test_gives_up_after_the_last_attempt(queue, job_of, secrets, receiver):
    receiver.script = [503] * 99
    queued = add(queue, job_of(), receiver.url)
    finish(queue, queued)
    with delivering(queue, secrets, receiver.url, pauses_s=(0.05, 0.05)) as outcomes:
        wait_until(lambda: state_of(queue, queued) == "failed")
    assert outcomes == [RETRIED, RETRIED, FAILED]
    assert len(receiver.received) == 3
    webhook = queue.get(queued.id).webhook
    assert "responded 503" in webhook.error
    assert (webhook.attempts, webhook.retry_at) == (3, None)


def test_receiver_that_is_gone_gets_no_further_attempt(queue, job_of, secrets, receiver):
    receiver.script = [410]
    queued = add(queue, job_of(), receiver.url)
    finish(queue, queued)
    with delivering(queue, secrets, receiver.url) as outcomes:
        wait_until(lambda: outcomes != [])
    assert state_of(queue, queued) == "failed"


def test_host_that_is_not_permitted_any_more_gets_nothing(queue, job_of, secrets, receiver):
    queued = add(queue, job_of(), receiver.url)
    finish(queue, queued)
    with delivering(queue, secrets, "hooks.example.com") as outcomes:
        wait_until(lambda: outcomes != [])
    assert receiver.received == []
    webhook = queue.get(queued.id).webhook
    assert webhook.state == "pending"
    assert "not a target" in webhook.error


def test_slow_receiver_does_not_delay_others(queue, job_of, secrets, receiver):
    with webhook_receiver(receiver.secret, [None] * 3) as slow:
        waiting = [add(queue, job_of(), slow.url) for _ in range(3)]
        quick = add(queue, job_of(), receiver.url)
        for queued in (*waiting, quick):
            finish(queue, queued)
        with delivering(queue, secrets, receiver.url, slow.url):
            wait_until(lambda: state_of(queue, quick) == "delivered")
            assert [state_of(queue, queued) for queued in waiting] == ["pending"] * 3


def test_only_the_process_that_runs_the_jobs_sends(queue, job_of, secrets, receiver):
    other = JobQueue(queue.folder(""), None, server="one")
    other._prepare()
    assert not other.runs_jobs
    jobs = [add(other, job_of(), receiver.url) for _ in range(5)]
    with (
        delivering(queue, secrets, receiver.url) as sent,
        delivering(other, secrets, receiver.url) as sent_by_other,
    ):
        for queued in jobs:
            finish(queue, queued)
        wait_until(lambda: all(state_of(queue, each) == "delivered" for each in jobs))
    assert sent == [DELIVERED] * 5
    assert sent_by_other == []
    assert len(receiver.received) == 5


def test_killed_process_loses_no_webhook_and_repeats_none_that_is_recorded(
    tmp_path, job_of, secrets, receiver
):
    """The first process is killed during the first attempt, after it has delivered another one."""
    code = (
        "import sys, time; from pathlib import Path\n"
        "from service.offline.queue.runner import JobQueue\n"
        "from service.offline.queue.webhook_deliverer import WebhookDeliverer\n"
        "from service.webhooks.signing import SigningSecrets\n"
        "from service.webhooks.targets import PermittedTargets\n"
        "folder, secrets, url = sys.argv[1:]\n"
        "queue = JobQueue(Path(folder), None, server='one'); queue._prepare()\n"
        "WebhookDeliverer(queue, PermittedTargets([url]), SigningSecrets(Path(secrets)),\n"
        "                 pauses_s=(1.0,) * 9).start()\n"
        "print('started', flush=True); time.sleep(600)\n"
    )
    folder = tmp_path / "jobs"
    folder.mkdir()
    queue = JobQueue(folder, None, server="one")
    queue.table.prepare(after_crash=False)
    first = add(queue, job_of(), receiver.url)
    finish(queue, first)
    command = [sys.executable, "-c", code, str(folder), str(secrets), receiver.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"started\n"
            wait_until(lambda: state_of(queue, first) == "delivered")
            receiver.script = [None]
            second = add(queue, job_of(), receiver.url)
            finish(queue, second)
            wait_until(lambda: len(receiver.received) == 2)
        finally:
            process.kill()
    queue._prepare()
    assert queue.runs_jobs
    with delivering(queue, secrets, receiver.url) as outcomes:
        wait_until(lambda: state_of(queue, second) == "delivered")
    assert outcomes == [DELIVERED]
    ids = [each.id for each in receiver.received]
    assert ids[0] != ids[1] == ids[2]
    assert len(ids) == 3


def test_process_that_ends_during_the_last_attempt_gives_up(queue, job_of, secrets, receiver):
    queued = add(queue, job_of(), receiver.url)
    finish(queue, queued)
    with contextlib.closing(sqlite3.connect(queue.folder("jobs.sqlite"))) as table, table:
        table.execute("UPDATE webhooks SET attempts = ?, retry_at = 0", (len(SHORT) + 1,))
    with delivering(queue, secrets, receiver.url) as outcomes:
        wait_until(lambda: outcomes != [])
    assert outcomes == [FAILED]
    assert "during the last attempt" in queue.get(queued.id).webhook.error


def test_deleted_job_has_no_webhook(queue, job_of, secrets, receiver):
    deleted, kept = [add(queue, job_of(), receiver.url) for _ in range(2)]
    queue.cancel(deleted.id)
    queue.cancel(deleted.id)
    queue.cancel(kept.id)
    with delivering(queue, secrets, receiver.url):
        wait_until(lambda: state_of(queue, kept) == "delivered")
    assert [each.event["data"]["id"] for each in receiver.received] == [kept.id]


def test_job_does_not_expire_before_its_webhook_is_delivered(tmp_path, job_of, secrets, receiver):
    queue = JobQueue(tmp_path / "jobs", None, QueueLimits(keep_s=0.001), server="one")
    queue._prepare()
    queued, plain = add(queue, job_of(), receiver.url), queue.add(job_of(), Owner())
    finish(queue, queued)
    finish(queue, plain)
    # Times are in whole microseconds; both jobs are older than what is kept.
    time.sleep(0.01)
    queue._sweep()
    assert [job.id for job in queue.table.page(None, 9)] == [queued.id]
    with delivering(queue, secrets, receiver.url):
        wait_until(lambda: state_of(queue, queued) == "delivered")
    queue._next_sweep = 0.0
    queue._sweep()
    assert queue.table.page(None, 9) == []


def test_table_of_an_earlier_version_takes_webhooks(tmp_path, job_of, receiver):
    queue = JobQueue(tmp_path / "jobs", None, server="one")
    queue._prepare()
    old = queue.add(job_of(), Owner())
    with contextlib.closing(sqlite3.connect(queue.folder("jobs.sqlite"))) as table, table:
        table.execute("DROP TABLE webhooks")
    queue._prepare()
    assert queue.get(old.id).webhook is None
    queued = add(queue, job_of(), receiver.url)
    assert queue.get(queued.id).webhook.state == "pending"
