import math

from training.evaluation.report.charts import draw_chart
from training.evaluation.report.document import Chart, Line


def chart(**options) -> str:
    lines = [
        Line("rising", [(1, 1.0), (10, 2.0), (100, math.nan)]),
        Line("<escaped>", [(5, 1.5)], scatter=True),
    ]
    return draw_chart(Chart(lines, x_label="images", y_label="loss", **options))


def test_chart_contains_labels_as_text():
    svg = chart()
    assert svg.startswith("<svg")
    for text in ("images", "loss", "rising", "&lt;escaped&gt;"):
        assert text in svg
    assert "<escaped>" not in svg


def test_same_chart_has_same_bytes():
    assert chart() == chart()


def test_logarithmic_axis_changes_positions():
    assert chart(log_x=True) != chart()


def test_chart_without_points_is_empty():
    svg = draw_chart(Chart([Line("nothing", [(1, math.inf)])], x_label="x", y_label="y"))
    assert "nothing" not in svg
