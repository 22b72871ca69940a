"""What is done with all machines of the lab at once."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.lab.cluster import together
from tests.lab.image import Image, LabError
from tests.lab.machine import Machine


def machine(number: int) -> Machine:
    nothing = Path("/nonexistent")
    return Machine(f"m-{number}", number, "192.0.2.1", Image(nothing, nothing, nothing, nothing), nothing, 1)


def test_results_are_in_the_order_of_the_machines() -> None:
    assert together([machine(1), machine(2)], lambda each: each.name) == ["m-1", "m-2"]


def test_the_first_error_waits_for_no_other_machine() -> None:
    hold = threading.Event()

    def work(each: Machine) -> None:
        if each.number == 2:
            raise LabError("it does not boot")
        hold.wait(60)

    try:
        with pytest.raises(LabError, match="it does not boot"):
            together([machine(1), machine(2)], work)
        assert not hold.is_set()
    finally:
        hold.set()
