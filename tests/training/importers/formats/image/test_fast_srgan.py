"""Fast-SRGAN checkpoints, against a network written from the published description."""

import pytest
import torch
from torch import nn

from service.runtime.models.probe_inputs import probe_images
from tests.support.checkpoints import converted_images, recognize
from training.importers.options import UserOptions

WIDTH, BLOCKS = 6, 2


class Block(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.conv1 = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False)
        self.bn1, self.relu1 = norm(WIDTH), nn.PReLU()
        self.conv2 = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False)
        self.bn2 = norm(WIDTH)

    def forward(self, x):
        return x + self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))


class Up(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.relu = nn.Conv2d(WIDTH, 4 * WIDTH, 3, padding=1), nn.PReLU()

    def forward(self, x):
        return self.relu(nn.functional.pixel_shuffle(self.conv(x), 2))


class Generator(nn.Module):
    def __init__(self, norm, doublings):
        super().__init__()
        self.neck = nn.Sequential(nn.Conv2d(3, WIDTH, 3, padding=1), nn.PReLU())
        self.stem = nn.Sequential(*[Block(norm) for _ in range(BLOCKS)])
        convolution = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False)
        self.bottleneck = nn.Sequential(convolution, norm(WIDTH))
        self.upsampling = nn.Sequential(*[Up() for _ in range(doublings)])
        self.head = nn.Sequential(nn.Conv2d(WIDTH, 3, 3, padding=1), nn.Tanh())

    def forward(self, x):
        x = self.neck(x)
        return self.head(self.upsampling(self.bottleneck(self.stem(x)) + x))


@pytest.mark.parametrize(
    ("norm", "doublings", "options"),
    [
        (nn.InstanceNorm2d, 2, UserOptions()),
        (nn.Identity, 1, UserOptions(assume={"norm": "none"})),
        (nn.BatchNorm2d, 2, UserOptions()),
    ],
)
def test_layout_variants_match_reference(tmp_path, norm, doublings, options):
    torch.manual_seed(1)
    network = Generator(norm if norm is not nn.Identity else lambda _: nn.Identity(), doublings)
    network(torch.randn(4, 3, 8, 8))  # Updates running statistics.
    network.eval()
    state = {f"_orig_mod.{name}": value for name, value in network.state_dict().items()}
    torch.save(state, tmp_path / "model.pt")
    best = recognize(tmp_path / "model.pt", options)
    assert best.format.name == "fast-srgan"
    assert best.converted.input.factor == 2**doublings
    image = torch.from_numpy(probe_images(range(2), 16, 3))
    with torch.no_grad():
        expected = network((image.float() / 127.5 - 1).permute(0, 3, 1, 2))
    assert expected.std() > 0.02
    assert (converted_images(best, image=image) - expected).abs().max() < 1e-4
