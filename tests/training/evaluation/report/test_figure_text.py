from service.runtime.models.manifest import Quality
from training.evaluation.report.figure_text import digests_of


def figure(metric, reference, sha256):
    return Quality(
        metric=metric,
        value=1,
        reference=reference,
        reference_sha256=sha256,
        samples=10,
        reference_samples=10,
    )


def test_every_digest_is_named_with_its_direction_where_there_are_two():
    figures = [
        figure("PSNR, there", "faces, split test", "a" * 64),
        figure("SSIM, there", "faces, split test", "a" * 64),
        figure("PSNR, back", "faces, split test", "b" * 64),
        figure("class obedience", "others", "c" * 64),
        figure("unknown", "old", None),
    ]
    assert digests_of(figures) == {
        "faces, split test": f"{'a' * 12} there and {'b' * 12} back",
        "others": "c" * 12,
    }
