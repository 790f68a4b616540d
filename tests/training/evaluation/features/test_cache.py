import logging
import sqlite3

import numpy as np
import pytest

from service.runtime.files import cache_folder
from tests.support.evaluation import noisy_digits
from training.evaluation.features import cache
from training.evaluation.features.cache import cached_features
from training.evaluation.features.networks import FeatureNetwork, NetworkInput


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GANYMEDE_CACHE", str(tmp_path))


@pytest.fixture
def computed(monkeypatch) -> list[int]:
    """The numbers of images whose features were computed, one for each call of the network."""
    counts: list[int] = []
    compute = FeatureNetwork.features

    def counting(self, pixels, progress=None):
        counts.append(len(pixels))
        return compute(self, pixels, progress)

    monkeypatch.setattr(FeatureNetwork, "features", counting)
    return counts


def digits(count: int, seed: int = 0) -> np.ndarray:
    return noisy_digits(count, seed)[0][..., None]


def database(network: FeatureNetwork) -> sqlite3.Connection:
    return sqlite3.connect(cache_folder("features") / f"{network.key}.sqlite")


def test_only_new_images_are_computed(small_network, computed):
    pixels = digits(50)
    few = cached_features(small_network, pixels[:20])
    many = cached_features(small_network, pixels)
    shuffled = np.random.default_rng(0).permutation(50)
    again = cached_features(small_network, pixels[shuffled])
    assert computed == [20, 30]
    assert np.array_equal(few.vectors, many.vectors[:20])
    assert np.array_equal(again.vectors, many.vectors[shuffled])
    assert np.array_equal(many.vectors, small_network.features(pixels).vectors)


def test_equal_images_are_computed_once(small_network, computed):
    pixels = digits(10)
    features = cached_features(small_network, np.concatenate([pixels, pixels]))
    assert computed == [10]
    assert np.array_equal(features.vectors[:10], features.vectors[10:])


def test_shapes_and_networks_have_their_own_features(small_network, small_network_file, computed):
    pixels = digits(10)
    cached_features(small_network, pixels)
    cached_features(small_network, pixels.reshape(10, 14, 56, 1))
    other = FeatureNetwork(
        small_network_file, "averages", NetworkInput(resizing="bilinear"), small_network.sha256
    )
    cached_features(other, pixels)
    assert computed == [10, 10, 10]


def test_logits_are_cached(computed):
    from training.evaluation.features.networks import open_network

    network = open_network()
    pixels = digits(2)
    first, second = (cached_features(network, pixels) for _ in range(2))
    assert computed == [2]
    assert second.logits.shape == (2, 1000)
    assert np.array_equal(first.logits, second.logits)


def test_progress_counts_all_images(small_network):
    pixels = digits(30)
    cached_features(small_network, pixels[:10])
    shown: list[tuple[int, int]] = []
    cached_features(small_network, pixels, lambda done, total: shown.append((done, total)))
    assert all(10 < done <= 30 and total == 30 for done, total in shown)
    assert shown[-1] == (30, 30)


def test_features_are_kept_if_a_later_chunk_fails(small_network, computed, monkeypatch):
    monkeypatch.setattr(cache, "_CHUNK", 10)
    pixels = digits(30)
    counting = FeatureNetwork.features

    def failing(self, part, progress=None):
        if len(computed) == 2:
            raise KeyboardInterrupt
        return counting(self, part, progress)

    with monkeypatch.context() as patch:
        patch.setattr(FeatureNetwork, "features", failing)
        with pytest.raises(KeyboardInterrupt):
            cached_features(small_network, pixels)
    computed.clear()
    cached_features(small_network, pixels)
    assert computed == [10]


def test_least_recently_used_rows_are_deleted(small_network, computed, monkeypatch):
    monkeypatch.setattr(cache, "_CHUNK", 50)
    old, kept = digits(200), digits(100, seed=1)
    monkeypatch.setattr(cache, "_today", lambda: 1)
    cached_features(small_network, np.concatenate([old, kept]))
    monkeypatch.setattr(cache, "_today", lambda: 2)
    cached_features(small_network, kept)
    with database(small_network) as rows:
        full = rows.execute("SELECT count(*) FROM features").fetchone()[0]
    monkeypatch.setattr(cache, "MAX_BYTES", 1)
    cached_features(small_network, digits(20, seed=2))
    with database(small_network) as rows:
        assert rows.execute("SELECT count(*) FROM features").fetchone()[0] == (full + 20) * 3 // 4
    computed.clear()
    cached_features(small_network, kept)
    assert computed == []


def test_corrupt_file_is_replaced(small_network, computed, caplog):
    pixels = digits(20)
    first = cached_features(small_network, pixels)
    path = cache_folder("features") / f"{small_network.key}.sqlite"
    path.write_bytes(b"no database " * 1000)
    with caplog.at_level(logging.WARNING):
        second = cached_features(small_network, pixels)
    assert "is not used" in caplog.text
    assert np.array_equal(first.vectors, second.vectors)
    cached_features(small_network, pixels)
    assert computed == [20, 20]


def test_cache_that_cannot_be_written_does_not_fail_an_evaluation(
    small_network, tmp_path, caplog, monkeypatch
):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GANYMEDE_CACHE", str(tmp_path / "file"))
    pixels = digits(20)
    with caplog.at_level(logging.WARNING):
        features = cached_features(small_network, pixels)
    assert str(tmp_path / "file" / "features") in caplog.text
    assert np.array_equal(features.vectors, small_network.features(pixels).vectors)
