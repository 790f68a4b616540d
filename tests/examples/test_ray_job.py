import re

import pytest

from tests.support.examples import run_example

pytest.importorskip("ray")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_writes_a_data_set_and_reads_it_by_class(tmp_path, drawn_repository):
    process = run_example(
        "ray_job.py",
        *("--model", "painted-classes", "--count", "60", "--out", tmp_path / "out"),
        cwd=tmp_path,
        GANYMEDE_MODELS=str(drawn_repository),
        RAY_USAGE_STATS_ENABLED="0",
    )
    found = re.findall(r"class (\d): (\d+) images, mean level ([\d.]+)", process.stdout)
    assert [(label, count) for label, count, _ in found] == [("0", "20"), ("1", "20"), ("2", "20")]
    assert list((tmp_path / "out").glob("*.parquet"))
