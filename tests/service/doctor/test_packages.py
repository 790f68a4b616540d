from importlib.metadata import version

from service.doctor.findings import Status
from service.doctor.packages import check_onnxruntime, check_packages, unmet


def test_this_environment_has_the_required_versions():
    findings = list(check_packages())
    assert {finding.status for finding in findings} == {Status.OK}
    by_check = {finding.check: finding for finding in findings}
    assert by_check["packages"].details["bentoml"] == version("bentoml")
    assert by_check["extra train"].details == {"installed": True, "torch": version("torch")}


def test_both_distributions_of_onnxruntime_are_an_error():
    (finding,) = check_onnxruntime("1.32.0", "1.31.1")
    assert finding.status is Status.ERROR
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in finding.advice
    assert not [*check_onnxruntime("1.32.0", None), *check_onnxruntime(None, "1.31.1")]


def test_missing_and_wrong_versions_have_the_command_that_repairs_them():
    declared = [
        "bentoml==0.1",
        "no-such-package>=2; python_version >= '3'",
        "another-missing-one; python_version < '3'",
        "numpy>=2",
        "optional-one>=1; extra == 'more'",
    ]
    assert list(unmet(declared)) == [
        (
            f"bentoml==0.1 is needed, and {version('bentoml')} is installed",
            "pip install 'bentoml==0.1'",
        ),
        ("no-such-package is not installed", "pip install 'no-such-package>=2'"),
    ]
    assert [text for text, _ in unmet(declared, "more")] == ["optional-one is not installed"]
