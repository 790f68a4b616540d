import pytest

from service.runtime.engine import Engine, EngineState, NotReady
from service.runtime.scheduler import JobTooLarge


def make_engine(models, **options):
    return Engine(models, **{"provider": "cpu", "queue_pixels": 10**6} | options)


@pytest.fixture
def engine(repository):
    engine = make_engine(repository)
    engine.start()
    yield engine
    engine.drain(timeout=10)


def test_it_makes_the_pictures_that_the_model_makes(engine):
    model = engine.catalog.get("gan-mnist")
    seeds = list(range(50))
    pixels = engine.submit(model, seeds).future.result(10)["pixels"]
    assert (pixels == model.generate(seeds)).all()


def test_before_its_start_and_after_its_drain_it_takes_no_jobs(repository):
    engine = make_engine(repository)
    assert engine.state is EngineState.STARTING
    engine.start()
    assert engine.state is EngineState.READY
    model = engine.catalog.get("gan-mnist")
    accepted = engine.submit(model, range(200))
    assert engine.drain(timeout=10)
    assert len(accepted.future.result(0)["pixels"]) == 200
    with pytest.raises(NotReady, match="stopped"):
        engine.submit(model, [1])


def test_the_queue_is_bounded_in_pixels(repository):
    engine = make_engine(repository, queue_pixels=2 * 28 * 28)
    engine.start()
    model = engine.catalog.get("gan-mnist")
    with pytest.raises(JobTooLarge):
        engine.submit(model, [1, 2, 3])
    assert len(engine.submit(model, [1, 2]).future.result(10)["pixels"]) == 2
    engine.drain(timeout=10)


def test_without_a_model_that_is_ready_it_fails_and_says_what_is_wrong(models, tmp_path):
    engine = make_engine(tmp_path / "nothing")
    engine.start()
    assert engine.state is EngineState.FAILED
    assert "empty" in engine.reason
    for name in ("gan-mnist", "dcgan-fashion"):
        (models / name / "1" / "generator.onnx").unlink()
    engine = make_engine(models)
    engine.start()
    assert engine.state is EngineState.FAILED
    assert "gan-mnist@1: generator.onnx cannot be read" in engine.reason
