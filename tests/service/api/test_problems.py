"""Translation of errors to problem responses."""

from service.api.problems import to_problem
from service.runtime.video.containers import CONTAINERS
from service.runtime.video.encoding import VideoUnsupported


def test_a_missing_video_encoder_is_an_error_of_the_format():
    problem = to_problem(VideoUnsupported(CONTAINERS["mp4"]))
    assert problem is not None
    assert (problem.status, problem.kind) == (422, "invalid-request")
    (error,) = problem.errors
    assert error["field"] == "format"
    assert "without libx264" in error["message"]
    assert "choose another format" in error["message"]


def test_an_unknown_error_is_no_problem_of_the_request():
    assert to_problem(RuntimeError("bug")) is None
