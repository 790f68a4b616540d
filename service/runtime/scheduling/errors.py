"""Why the scheduler does not accept a job, or ends it without a result."""


class QueueFull(Exception):
    """The queue limit would be exceeded. `retry_after` is the estimated wait in seconds."""

    def __init__(self, retry_after: float) -> None:
        super().__init__(f"the queue is full; retry in about {retry_after:.1f} s")
        self.retry_after = retry_after


class JobTooLarge(Exception):
    """The job alone exceeds the queue limit, so it would never fit."""


class Draining(Exception):
    """The scheduler accepts no more jobs."""


class DeadlineExceeded(Exception):
    """The deadline passed before the whole job had run."""
