import pytest

from service.doctor.findings import Status
from service.doctor.provider import Driver, check_provider, driver_finding, selected_provider
from service.runtime.onnx.sessions import cuda_unavailable_reason

NO_LIBRARY = "a CUDA library is missing (libcudnn.so.9); CUDA 13 and cuDNN 9 are needed"


@pytest.mark.parametrize(
    ("option", "reason", "has_gpu", "status", "provider", "words"),
    [
        ("auto", None, True, Status.OK, "cuda", "cuda"),
        ("cuda", None, True, Status.OK, "cuda", "cuda"),
        ("auto", "there is no NVIDIA driver", False, Status.OK, "cpu", "no NVIDIA driver"),
        ("cpu", "there is no NVIDIA driver", False, Status.OK, "cpu", "as set"),
        ("cpu", None, True, Status.WARNING, "cpu", "although CUDA is available"),
        ("auto", NO_LIBRARY, True, Status.WARNING, "cpu", "libcudnn.so.9"),
        ("cuda", NO_LIBRARY, True, Status.ERROR, None, "libcudnn.so.9"),
        ("cuda", "there is no NVIDIA driver", False, Status.ERROR, None, "no NVIDIA driver"),
    ],
)
def test_states_the_provider_and_why(option, reason, has_gpu, status, provider, words):
    finding = selected_provider(option, reason, has_gpu=has_gpu)
    assert finding.status is status
    assert finding.details["provider"] == provider
    assert words in finding.text
    assert bool(finding.advice) is (status is not Status.OK)


def test_advice_fits_the_reason():
    installed = selected_provider("auto", NO_LIBRARY, has_gpu=True)
    assert "ganymede[gpu]" in installed.advice
    reason = "the installed onnxruntime has no CUDA provider"
    assert "pip install 'onnxruntime-gpu" in selected_provider("cuda", reason, has_gpu=True).advice


def test_driver_must_support_cuda_13():
    gpu = (("NVIDIA H200", 150_000_000_000),)
    old, new = driver_finding(Driver(12_040, gpu)), driver_finding(Driver(13_000, gpu))
    assert old.status is Status.WARNING
    assert "CUDA 12.4" in old.text
    assert new.status is Status.OK
    assert "NVIDIA H200 (150.0 GB); the driver supports CUDA 13.0" in new.text
    assert driver_finding(Driver(13_000, ())).status is Status.WARNING
    assert driver_finding(None).status is Status.OK


def test_this_machine():
    first, *_ = check_provider("auto")
    expected = "cuda" if cuda_unavailable_reason() is None else "cpu"
    assert first.details["provider"] == expected
