import gc
import shutil
import threading
from dataclasses import dataclass

import pytest

from service.runtime.models import memory_budget
from service.runtime.models.catalog import Catalog, State
from service.runtime.models.memory_budget import MemoryBudget
from service.runtime.models.model import GoldenMatch, ModelFailed
from service.runtime.models.parts.graphs import GENERATOR
from service.runtime.onnx.sessions import ExecutionPlan, Provider

PLAN = ExecutionPlan(workers=1, threads=1, max_rows=4)


@dataclass(eq=False)
class Weight:
    """A loadable object of a given size in bytes."""

    files_bytes: int
    memory_bytes: int = 0
    loaded: bool = False

    def unload(self):
        self.loaded = False


@pytest.fixture(autouse=True)
def steady(request, monkeypatch):
    """Report constant process memory, so that models count with the size of their files."""
    if "repository" not in request.fixturenames and "models" not in request.fixturenames:
        monkeypatch.setattr(memory_budget, "resident_bytes", lambda: 0)


def load(budget, weight):
    with budget.loading(weight):
        weight.loaded = True


def test_least_recently_used_model_is_unloaded_first():
    budget = MemoryBudget(120)
    first, second, third = (Weight(10, 40) for _ in range(3))
    for weight in (first, second, third):
        load(budget, weight)
    budget.touch(first)
    fourth = Weight(10, 30)
    load(budget, fourth)
    assert [each.loaded for each in (first, second, third, fourth)] == [True, False, True, True]
    assert budget.used_bytes == 110


def test_makes_room_before_loading():
    budget = MemoryBudget(100)
    old, new = Weight(60, 60), Weight(60, 60)
    load(budget, old)
    with budget.loading(new):
        assert not old.loaded


def test_oversized_model_is_served_alone():
    budget = MemoryBudget(50)
    small, large = Weight(10), Weight(70)
    load(budget, small)
    load(budget, large)
    assert (small.loaded, large.loaded) == (False, True)
    assert budget.used_bytes == 70


def test_failed_load_does_not_count():
    budget = MemoryBudget(100)
    with pytest.raises(OSError, match="spoiled"), budget.loading(Weight(10)):
        raise OSError("spoiled")
    assert budget.used_bytes == 0


def test_deleted_model_does_not_count():
    budget = MemoryBudget(100)
    weight = Weight(10, 60)
    load(budget, weight)
    assert budget.used_bytes == 60
    del weight
    gc.collect()
    assert budget.used_bytes == 0


def test_model_unloaded_while_touched_does_not_count():
    budget = MemoryBudget(100)
    weight = Weight(10, 60)
    load(budget, weight)
    weight.unload()
    budget.touch(weight)
    assert budget.used_bytes == 0


def catalog_of(folder, limit):
    catalog = Catalog(folder, Provider.CPU, PLAN, budget=MemoryBudget(limit))
    catalog.load()
    return catalog


def generate(model, seeds=(1, 2)):
    return model.run(GENERATOR, model.feeds(seeds))["pixels"]


def loaded(catalog):
    return [entry.name for entry in catalog.entries if entry.model.loaded]


def test_all_models_are_loaded_if_they_fit(repository):
    catalog = catalog_of(repository, 10**9)
    assert loaded(catalog) == catalog.names()
    memory = [entry.model.memory_bytes for entry in catalog.entries]
    assert all(
        entry.model.files_bytes <= limit
        for entry, limit in zip(catalog.entries, memory, strict=True)
    )
    assert catalog.budget.used_bytes == sum(memory)


def test_model_is_loaded_on_demand(repository):
    plain = Catalog(repository, Provider.CPU, PLAN)
    plain.load()
    catalog = catalog_of(repository, 1)
    assert {entry.state for entry in catalog.entries} == {State.READY}
    assert loaded(catalog) == []
    for name in (*catalog.names(), *catalog.names()):
        assert (generate(catalog.get(name)) == generate(plain.get(name))).all()
        assert loaded(catalog) == [name]
        assert catalog.entry(name).golden is GoldenMatch.EXACT


def test_alternating_models_keep_their_outputs(repository):
    plain = Catalog(repository, Provider.CPU, PLAN)
    plain.load()
    catalog = catalog_of(repository, 1)
    failures = []

    def work(name):
        expected = generate(plain.get(name))
        outputs = [generate(catalog.get(name)) for _ in range(2)]
        failures.extend(name for output in outputs if not (output == expected).all())

    threads = [threading.Thread(target=work, args=(n,)) for n in catalog.names()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(loaded(catalog)) == 1


def test_model_broken_on_demand_load_fails_until_reload(models, tmp_path):
    catalog = catalog_of(models, 1)
    model = catalog.get("gan-mnist")
    graph = models / "gan-mnist" / "1" / "generator.onnx"
    shutil.copy(graph, tmp_path / "original")
    graph.write_bytes(b"x" + graph.read_bytes())
    for _ in range(2):
        with pytest.raises(ModelFailed, match=r"gan-mnist cannot be served: .* sha256"):
            generate(model)
    with pytest.raises(ModelFailed, match="sha256"):
        catalog.get("gan-mnist")
    assert catalog.entry("gan-mnist").state is State.FAILED
    assert len(generate(catalog.get("dcgan-fashion"))) == 2
    shutil.copy(tmp_path / "original", graph)
    repaired, changes = catalog.reload()
    assert [entry.name for entry in changes.loaded] == ["gan-mnist"]
    assert len(generate(repaired.get("gan-mnist"))) == 2
