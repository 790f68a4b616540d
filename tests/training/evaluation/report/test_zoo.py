import re
from pathlib import Path

import pytest

from scripts.documentation.featured import FEATURED, animation
from service.runtime.models.manifest import MANIFEST_FILE, read_manifest
from service.runtime.models.parts.measurements import Quality
from training.evaluation.errors import QualityError
from training.evaluation.report.formatting import direction_arrow, format_value, metric_title
from training.evaluation.report.zoo import write_zoo

ROOT = Path(__file__).parents[4]


def test_page_contains_metrics_of_manifests(tmp_path, models):
    folder = models / "gan-mnist" / "1"
    figure = Quality(
        metric="KID-X",
        value=0.01234,
        low=0.01,
        high=0.015,
        real=0.0001,
        real_samples=50,
        feature_network="X (sha256 0123)",
        reference="digits, split test",
        reference_sha256="ab" * 32,
        samples=100,
        reference_samples=60,
        seed_start=0,
        resizing="antialiased bicubic to 8×8",
    )
    # The first metric of image-to-image models uses no feature network.
    pixel_metric = figure.model_copy(update={"metric": "PSNR", "feature_network": None})
    manifest = read_manifest(folder).model_copy(update={"quality": (pixel_metric, figure)})
    (folder / MANIFEST_FILE).write_text(manifest.to_json())
    page = tmp_path / "docs" / "zoo.md"
    write_zoo(models, page)
    text = page.read_text()
    assert "| KID-X | ↓ | 0.01234 | 0.01000 to 0.01500 | 0.00010 (50) | 100 against 60 |" in text
    assert (
        "100 samples of seeds 0 to 99, against 60 images of digits, split test (sha256 "
        "abababababab). Features: X (sha256 0123); resizing: antialiased bicubic to 8×8."
    ) in text
    assert text.count("Not measured yet.") == 2
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert (page.parent / link).exists() or link == "quality.md", link
    for name in ("gan-mnist", "dcgan-fashion", "cgan-fashion"):
        assert f"[{name}](#{name})" in text
        assert f"\n## {name}\n" in text


def test_page_begins_with_the_featured_models(tmp_path, models):
    page = tmp_path / "docs" / "zoo.md"
    featured = {"cgan-fashion": tmp_path / "docs" / "images" / "w.webp"}
    write_zoo(models, page, featured=featured)
    text = page.read_text()
    opening = text.index("[cgan-fashion](#cgan-fashion): ")
    assert text.index("](images/w.webp)") < opening < text.index("| model |")
    with pytest.raises(QualityError, match="the featured model other does not exist"):
        write_zoo(models, page, featured={"other": tmp_path / "w.webp"})


def test_rejects_repository_without_models(tmp_path):
    with pytest.raises(QualityError, match="there are no models"):
        write_zoo(tmp_path, tmp_path / "zoo.md")


def test_shipped_page_and_cards_match_manifests():
    page = (ROOT / "docs" / "zoo.md").read_text()
    assert "None" not in page
    for model in FEATURED:
        image = animation(model).relative_to(ROOT / "docs")
        assert page.index(f"]({image})") < page.index("| model |"), "make zoo-page"
    measured = 0
    for manifest_file in sorted((ROOT / "models").glob("*/*/" + MANIFEST_FILE)):
        manifest = read_manifest(manifest_file.parent)
        if manifest.text_encoder is not None:
            continue
        assert f"\n## {manifest.name}\n" in page, "make zoo-page"
        card = (manifest_file.parent / "README.md").read_text()
        assert manifest.good_for, manifest.name
        for text in (page, card):
            assert f"\nGood for {manifest.good_for}.\n" in text, manifest.name
        for figure in manifest.quality:
            assert figure.reference_sha256, f"{manifest.name}: {figure.metric}"
            assert figure.reference_sha256[:12] in card, f"{manifest.name}: {figure.metric}"
            # The page names the reference of the samples, for both directions.
            if figure.reference == manifest.quality[0].reference:
                assert figure.reference_sha256[:12] in page, f"{manifest.name}: {figure.metric}"
            value = format_value(figure.metric, figure.value)
            title, arrow = metric_title(figure.metric), direction_arrow(figure.metric)
            # Texts have one row for each generator and temperature.
            row = f"| {value} |" if manifest.text else f"| {title} | {arrow} | {value} |"
            assert row in page
            assert value in card
        measured += bool(manifest.quality)
    assert measured >= 6
