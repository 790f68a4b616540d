"""Output folders of jobs: local folders and object stores."""

import pytest

from service.offline.stores import Store, StoreError


@pytest.mark.parametrize("name", ["data*", "data?", "data[1]"])
def test_patterns_are_refused_in_stores_and_plain_names_locally(tmp_path, name):
    with pytest.raises(StoreError, match="cannot have"):
        Store(f"memory://bucket/{name}")
    store = Store(str(tmp_path / name))
    store.write(".ganymede/state", b"x")
    neighbour = Store(str(tmp_path / "data1"))
    neighbour.write(".ganymede/state", b"x")
    store.remove_folder(".ganymede")
    assert store.names() == []
    assert neighbour.read(".ganymede/state") == b"x"
