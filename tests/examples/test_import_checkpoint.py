import pytest
import torch
from PIL import Image

from tests.support.checkpoint_layouts.sequential import dcgan_shapes
from tests.support.checkpoints import random_tensors
from tests.support.examples import run_example
from tests.support.servers import free_port


@pytest.mark.slow
def test_imports_serves_and_fetches_an_image(tmp_path):
    torch.save(random_tensors(dcgan_shapes(16, (8, 8, 8), 3), scale=0.1), tmp_path / "netG.pth")
    process = run_example(
        "import_checkpoint.sh", "netG.pth", "my-faces", cwd=tmp_path, PORT=str(free_port())
    )
    assert "matches" in process.stdout
    assert "wrote my-faces-7.png" in process.stdout
    with Image.open(tmp_path / "my-faces-7.png") as image:
        assert image.size == (32, 32)
