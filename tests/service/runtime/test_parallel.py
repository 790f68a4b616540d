import threading

import pytest

from service.runtime.parallel import map_in_order


def test_results_are_in_order_and_bounded():
    taken, finished = [], threading.Event()

    def items():
        for i in range(20):
            taken.append(i)
            yield i

    def square(number):
        if number == 0:
            finished.wait(30)
        return number * number

    results = map_in_order(square, items(), 3)
    threading.Timer(0.2, finished.set).start()
    assert next(results) == 0
    assert len(taken) <= 4
    assert [0, *results] == [i * i for i in range(20)]


def test_error_of_an_item_is_raised():
    def invert(number):
        return 1 / number

    results = map_in_order(invert, [1, 0, 2], 2)
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)
