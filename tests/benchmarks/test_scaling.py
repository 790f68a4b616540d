import pytest

from benchmarks.scaling import Contention, cases


def test_law_is_recovered_from_its_own_points():
    law = Contention(one=1000.0, contention=0.05, coherence=0.002)
    fitted = Contention.fitted([(n, law.throughput(n)) for n in (1, 2, 4, 8)])
    assert fitted.one == pytest.approx(law.one)
    assert fitted.contention == pytest.approx(law.contention)
    assert fitted.coherence == pytest.approx(law.coherence)


def test_two_numbers_of_processes_give_amdahls_law():
    # Two rounds each: 1.6 times the throughput with two processes.
    fitted = Contention.fitted([(1, 100.0), (1, 100.0), (2, 160.0), (2, 160.0)])
    assert fitted.coherence == 0
    assert fitted.contention == pytest.approx(0.25)
    # Amdahl's law: the limit of the speed-up is 1 / σ.
    assert fitted.throughput(10**6) == pytest.approx(400, rel=1e-3)


def test_no_negative_contention_from_superlinear_points():
    fitted = Contention.fitted([(1, 100.0), (2, 210.0), (4, 430.0)])
    assert (fitted.contention, fitted.coherence) == (0, 0)


def test_one_number_of_processes_is_no_basis():
    with pytest.raises(ValueError, match="at least two"):
        Contention.fitted([(1, 100.0), (1, 110.0)])


def test_cases_contain_both_series_once():
    pairs = [(case.processes, case.cpus) for case in cases([1, 2, 4, 8], 4)]
    assert pairs == [(1, 4), (2, 4), (4, 4), (8, 4), (1, 1), (2, 2)]
