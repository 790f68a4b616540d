import pytest

from service.worker import _memory_share


@pytest.mark.parametrize(("budget", "share"), [(None, None), (4_000, 1_000), (4_003, 1_000)])
def test_processes_share_the_memory_budget(budget, share):
    assert _memory_share(budget, 4) == share
    assert _memory_share(budget, 1) == budget
