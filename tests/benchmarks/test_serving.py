import json

import pytest

from benchmarks import serving


def result(contender, connections, number, images_s, **more):
    figures = {"images_s": images_s, "cpu_ms": 1.0, "p50_ms": 10.0, "p99_ms": 25.0}
    counts = {"errors": 0, "refused": 0, "late": 0, "requests": 100}
    where = {"workload": "m-1-png", "connections": connections, "contender": contender}
    return {**where, "round": number, **figures, **counts, **more}


BARE = [
    {"workload": "m-1-png", "connections": 0, "contender": serving.BARE, "round": i, "images_s": 90}
    for i in range(2)
]
RESULTS = [
    *BARE,
    result("fastapi", 8, 0, 10.0, errors=2),
    result("ganymede ×1", 8, 0, 20.0),
    result("ganymede ×2", 8, 0, 30.0),
    # The machine is half as fast in the second round; the ratios stay.
    result("fastapi", 8, 1, 5.0, errors=1),
    result("ganymede ×1", 8, 1, 10.0),
    result("ganymede ×2", 8, 1, 15.0),
    result("ganymede ×2", serving.OVERLOAD, 0, 30.0, refused=7),
]


def test_ratios_compare_the_most_processes_with_each_server_in_the_same_round():
    rows = {(r["contender"], r["connections"]): r for r in serving.summary(RESULTS)}
    relative = {name: r["ours_relative"] for (name, at), r in rows.items() if at == 8}
    assert [relative[name]["median"] for name in relative] == [1.0, 1.5, 3.0]
    assert relative["fastapi"]["lowest"] == relative["fastapi"]["highest"]
    assert rows["ganymede ×2", 8]["p99_of_p50"]["median"] == 2.5
    assert rows["fastapi", 8]["errors"] == 3
    assert rows["fastapi", 8]["cpu_of_ours"]["median"] == 1.0
    assert rows["ganymede ×2", serving.OVERLOAD]["refused"] == 7


def test_table_of_a_file_prints_all_loads(tmp_path, monkeypatch, capsys):
    path = tmp_path / "results.json"
    path.write_text(json.dumps([{"results": RESULTS}]))
    monkeypatch.setattr("sys.argv", ["serving", "--table", str(path)])
    serving.main()
    printed = capsys.readouterr().out
    once = "1.00 (1.00 to 1.00)"
    assert f"| 8 | ganymede ×2 | 22.5 (15.0 to 30.0) | {once} | {once} |" in printed
    assert f"| {serving.OVERLOAD} | ganymede ×2 | 30.0 " in printed


def test_included_models_need_no_export():
    assert serving.exported("gan-mnist") == serving.INCLUDED / "gan-mnist" / "1"


@pytest.mark.parametrize("name", serving.SMALL)
def test_small_models_are_included(name):
    assert (serving.exported(name) / "model.json").is_file()
