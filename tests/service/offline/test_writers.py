"""Files of shards."""

import pytest

from service.offline.job import JobItems, Layout
from service.offline.stores import Store
from service.offline.writers import open_shard_writer

parquet = pytest.importorskip("pyarrow.parquet")


def test_large_images_end_a_row_group_early(manifest_of, job_of, tmp_path):
    manifest, job = manifest_of("painted"), job_of("painted", count=105, layout=Layout.PARQUET)
    items = JobItems(job, manifest)
    large = bytes(130 * 2**20)
    with open_shard_writer(job, manifest.classes, Store(str(tmp_path)), 0) as writer:
        for number in range(105):
            writer.add(items(number), large if number < 3 else b"small")
    file = parquet.ParquetFile(tmp_path / "images-00000.parquet")
    rows = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
    assert rows == [2, 100, 3]
