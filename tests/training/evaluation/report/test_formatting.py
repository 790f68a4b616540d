from service.runtime.models.parts.measurements import Quality
from training.evaluation.report.formatting import format_value, metric_title, reference_digests


def figure(metric, reference, sha256):
    return Quality(
        metric=metric,
        value=1,
        reference=reference,
        reference_sha256=sha256,
        samples=10,
        reference_samples=10,
    )


def test_digests_of_two_directions_are_named():
    figures = [
        figure("PSNR, forward", "faces, split test", "a" * 64),
        figure("SSIM, forward", "faces, split test", "a" * 64),
        figure("PSNR, backward", "faces, split test", "b" * 64),
        figure("class obedience", "others", "c" * 64),
        figure("unknown", "old", None),
    ]
    assert reference_digests(figures) == {
        "faces, split test": f"{'a' * 12} forward and {'b' * 12} backward",
        "others": "c" * 12,
    }


def test_titles_name_units_and_directions():
    assert metric_title("class obedience") == "class accuracy"
    assert metric_title("PSNR, forward") == "PSNR (dB), forward"
    assert metric_title("KID-EffNetLite0") == "KID-EffNetLite0"
    assert metric_title("from another version") == "from another version"


def test_values_have_significant_digits():
    assert format_value("precision", 0.1234) == "12.3%"
    assert format_value("KID-EffNetLite0", 0.012345) == "0.01235"
    assert format_value("FID", 123.456) == "123.5"
    assert format_value("from another version", 1.23456) == "1.235"
    assert format_value("FID", None) == ""
