import json

import numpy as np
import pytest
from PIL import Image

from training.captions.reading import (
    CaptionOptions,
    captioned,
    example_prompts,
    held_out_texts,
    without_texts,
)
from training.data.images import DataOptions, load_images
from training.data.sources import DataError


@pytest.fixture
def folder(tmp_path):
    """Forty drawings in two styles with the same file names, and their descriptions."""
    lines = []
    for i in range(40):
        for style in ("flat", "round"):
            (tmp_path / style).mkdir(exist_ok=True)
            Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(tmp_path / style / f"{i:x}.png")
        text = f"thing number {i // 2}" if i < 10 else f"drawing{i} of a cat"
        lines.append({"id": f"{i:x}", "text": text, "tags": ["thing", "small", "blue"]})
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return tmp_path


def options(folder, **more):
    return DataOptions(path=str(folder), resolution=8, **more)


def test_one_line_describes_all_styles(folder):
    data = options(folder)
    images = load_images(data)
    captions = captioned(data, images, CaptionOptions(style=True))
    by_name = dict(zip(images.names, captions.rows, strict=True))
    assert len(by_name) == 80
    assert by_name["flat/0.png"] == (
        "thing number 0",
        "thing number 0, small, blue",
        "thing number 0, flat",
        "thing number 0, small, blue, flat",
    )
    assert by_name["round/0.png"][-1].endswith("round")


def test_numbers_of_files_are_stripped(folder):
    data = options(folder)
    captions = captioned(data, load_images(data), CaptionOptions(tags=False, strip_numbers=True))
    assert "drawing of a cat" in captions.texts()
    assert "thing number 0" in captions.texts()


def test_held_out_texts_are_never_trained_on(folder):
    data, captions_options = options(folder, hold_out=4), CaptionOptions(style=True)
    held_out = held_out_texts(data, captions_options)
    images = load_images(data)
    captions = captioned(data, images, captions_options)
    # Two files share the text of a held-out one.
    assert set(held_out) & set(captions.texts())
    kept, left = without_texts(images, captions, held_out)
    assert len(kept) == len(left.rows) == len(kept.names) < len(images)
    assert f"left out: {len(images) - len(kept):,} images whose caption is also" in kept.notes[-1]
    assert not {text.casefold() for text in held_out} & {text.casefold() for text in left.texts()}
    assert set(example_prompts(data, captions_options)) <= set(held_out)


def test_missing_caption_is_reported(folder):
    Image.new("RGB", (8, 8)).save(folder / "flat" / "other.png")
    data = options(folder)
    with pytest.raises(DataError, match=r"flat/other\.png has no caption"):
        captioned(data, load_images(data), CaptionOptions())


def test_data_without_captions_are_reported(folder):
    (folder / "metadata.jsonl").unlink()
    data = options(folder)
    with pytest.raises(DataError, match="no captions: expected metadata"):
        captioned(data, load_images(data), CaptionOptions())
