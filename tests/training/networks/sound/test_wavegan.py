import pytest
import torch

from training.networks.sound.wavegan import (
    PhaseShuffle,
    WaveGANDiscriminator,
    WaveGANDiscriminatorOptions,
    WaveGANGeneratorOptions,
    quadruplings,
)


@pytest.mark.parametrize("samples", [128, 1024, 8192])
def test_shapes(samples):
    generator = WaveGANGeneratorOptions(network="wavegan", width=2).build_sound(samples, 3)
    discriminator = WaveGANDiscriminatorOptions(network="wavegan", width=2).build_sound(samples, 3)
    waveforms = generator(torch.randn(4, 100), torch.tensor([0, 1, 2, 0]))
    assert waveforms.shape == (4, 1, samples)
    assert waveforms.abs().max() <= 1
    assert discriminator(waveforms, torch.tensor([0, 1, 2, 0])).shape == (4,)


def test_the_networks_of_the_paper():
    assert quadruplings(16_384) == (16, 5)
    generator = WaveGANGeneratorOptions(network="wavegan").build_sound(16_384)
    # Table 2: d = 64, c = 1.
    shapes = [
        tuple(weight.shape) for name, weight in generator.named_parameters() if weight.ndim > 1
    ]
    assert shapes == [
        (16_384, 100), (1024, 512, 25), (512, 256, 25), (256, 128, 25), (128, 64, 25), (64, 1, 25),
    ]  # fmt: skip


@pytest.mark.parametrize("samples", [8190, 16, 8191])
def test_rejects_other_lengths(samples):
    with pytest.raises(ValueError, match="WaveGAN needs"):
        WaveGANGeneratorOptions(network="wavegan").build_sound(samples)


def test_phase_shuffle_shifts_by_reflection_in_training_only():
    shuffle, x = PhaseShuffle(2), torch.arange(8.0)[None, None]
    seen = set()
    for seed in range(40):
        torch.manual_seed(seed)
        seen.add(tuple(shuffle(x).flatten().tolist()))
    assert seen == {
        (2, 1, 0, 1, 2, 3, 4, 5),
        (1, 0, 1, 2, 3, 4, 5, 6),
        (0, 1, 2, 3, 4, 5, 6, 7),
        (1, 2, 3, 4, 5, 6, 7, 6),
        (2, 3, 4, 5, 6, 7, 6, 5),
    }
    assert torch.equal(shuffle.eval()(x), x)


def test_logits_depend_on_the_class():
    discriminator = WaveGANDiscriminator(128, 2, 0, classes=2)
    waveforms = torch.randn(3, 1, 128)
    first, second = (discriminator(waveforms, torch.full((3,), index)) for index in (0, 1))
    assert not torch.allclose(first, second)
