import io

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from training.data.sources import open_source, open_splits


def image_file(level=0) -> bytes:
    out = io.BytesIO()
    Image.new("L", (4, 4), level).save(out, "PNG")
    return out.getvalue()


def write(path, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


def test_other_image_columns_are_named(tmp_path):
    file = write(tmp_path / "x.parquet", mask=[image_file(1)], image=[image_file(2)])
    source = open_source(file)
    assert source.read(0).getpixel((0, 0)) == 2
    assert source.notes == ["the images are those of the column image; not read: mask"]


def test_rows_without_a_class(tmp_path):
    file = write(tmp_path / "x.parquet", image=[image_file()] * 3, label=[0, None, -1])
    source = open_source(file)
    assert source.labels is None
    assert source.notes == ["no classes, because row 1 and 1 more has none"]


def test_files_with_names_of_splits(tmp_path):
    for name in ("train-0", "train-1", "Test"):
        write(tmp_path / "data" / f"{name}.parquet", image=[image_file()] * 2)
    sources = open_splits(tmp_path)
    assert {split: len(source.names) for split, source in sources.items()} == {
        "train": 4,
        "Test": 2,
    }


def test_files_of_splits_beside_others_are_named(tmp_path):
    write(tmp_path / "train.parquet", image=[image_file()])
    write(tmp_path / "more.parquet", image=[image_file()])
    source = open_source(tmp_path)
    assert len(source.names) == 2
    assert source.notes == [
        "train.parquet is read together with more.parquet, because not all files have the name of "
        "a split"
    ]


def test_table_without_images_beside_image_files(tmp_path):
    write(tmp_path / "metadata.parquet", file_name=["1.png"], label=["a"])
    (tmp_path / "1.png").write_bytes(image_file())
    source = open_source(tmp_path)
    assert list(source.names) == ["1.png"]
    assert source.ignored == {
        "metadata.parquet": "is a Parquet file without images, or lies beside other images"
    }


def test_dictionary_encoded_classes(tmp_path):
    labels = pa.array(["b", "a", "b"]).dictionary_encode()
    source = open_source(write(tmp_path / "x.parquet", image=[image_file()] * 3, label=labels))
    assert (source.class_names, source.labels) == (["a", "b"], [1, 0, 1])


def test_column_that_holds_no_classes_is_named(tmp_path):
    source = open_source(write(tmp_path / "x.parquet", image=[image_file()], label=[0.5]))
    assert source.notes == ["no classes, because the column label holds double"]
