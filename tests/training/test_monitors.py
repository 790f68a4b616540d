import pytest
import torch

from training.distributed import Share
from training.monitors import Signs, TrainingDiverged, assert_finite


def test_weights_that_are_no_numbers_are_not_kept():
    good = {"generator": {"weight": torch.ones(3), "count": torch.tensor(3)}}
    assert_finite(good)
    with pytest.raises(TrainingDiverged, match="a weight of the discriminator"):
        assert_finite(good | {"discriminator": {"weight": torch.tensor([1.0, float("nan")])}})


def test_means_are_over_the_interval_alone():
    signs = Signs(Share())
    for value in (1.0, 2.0, 6.0):
        signs.add({"loss": torch.tensor(value)})
    assert signs.take() == {"loss": 3.0}
    signs.add({"loss": torch.tensor(5.0)})
    assert signs.take() == {"loss": 5.0}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_the_run_and_says_what_to_change(value):
    signs = Signs(Share())
    signs.add({"loss_generator": torch.tensor(value), "loss_discriminator": torch.tensor(1.0)})
    with pytest.raises(TrainingDiverged, match=r"loss_generator became .*learning rates"):
        signs.take()
