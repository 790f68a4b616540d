import pytest
from pydantic import TypeAdapter, ValidationError

from training.evaluation.metrics import (
    MetricName,
    all_metrics,
    find_metric,
    get_metric,
    pair_metric_names,
    selectable_metrics,
)


def test_names_and_keys_are_unique():
    metrics = all_metrics()
    assert len({metric.name for metric in metrics}) == len(metrics)
    assert len({metric.key for metric in metrics}) == len(metrics)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("KID-EffNetLite0", "kernel_distance"),
        ("KID", "kernel_distance"),
        ("FID", "frechet_distance"),
        ("FD-InceptionV3-01234567", "frechet_distance"),
        ("intra-class KID-EffNetLite0", "intra_class_kernel_distance"),
        ("class obedience", "class_accuracy"),
        ("PSNR, photo_to_sketch", "psnr"),
        ("feature distance-EffNetLite0, photo_to_sketch", "feature_distance"),
        ("kernel_distance", "kernel_distance"),
    ],
)
def test_results_are_found_by_key(key, name):
    assert find_metric(key) is get_metric(name)


def test_unknown_key_is_not_found():
    assert find_metric("something else") is None


def test_selectable_metrics_are_the_choices_of_recipes():
    selectable = {metric.name for metric in all_metrics() if metric.selectable}
    assert selectable >= {"kernel_distance", "frechet_distance", "feature_distance", "psnr", "ssim"}
    for name in selectable:
        assert TypeAdapter(MetricName).validate_python(name) == name
    with pytest.raises(ValidationError, match=r"expected one of kernel_distance, .* got 'recall'"):
        TypeAdapter(MetricName).validate_python("recall")


def test_mean_absolute_error_is_not_a_per_pair_metric():
    assert pair_metric_names() == ("psnr", "ssim", "feature_distance", "error")
    assert pair_metric_names(per_pair=True) == ("psnr", "ssim", "feature_distance")


def test_direction_sets_arrow_and_cost_sign():
    assert get_metric("psnr").arrow == "↑"
    assert get_metric("psnr").cost(3.0) == -3.0
    assert get_metric("kernel_distance").arrow == "↓"
    assert get_metric("kernel_distance").cost(3.0) == 3.0
    assert get_metric("diversity").arrow == ""


def test_default_of_selectable_metrics_comes_first():
    pairs = selectable_metrics("pairs", default="feature_distance")
    assert pairs[0] == "feature_distance"
    assert {"psnr", "ssim"} <= set(pairs)
    features = selectable_metrics("features", default="kernel_distance")
    assert features[0] == "kernel_distance"
    assert "frechet_distance" in features
