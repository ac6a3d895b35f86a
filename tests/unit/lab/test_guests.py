"""What a lab gives its guests: a name, a slot and an address, each to one of them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from segue.errors import LabError
from segue.lab import Lab, guests, layout


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """Its records alone; nothing of it is up."""
    monkeypatch.setattr(layout, "BASE", tmp_path)
    made = Lab(layout=layout.Layout(name="x"), hosts=("alpha",), pids={}, storage="qemu-nfs")
    (made.root / "guests").mkdir(parents=True)
    return made


def spec(name: str) -> guests.GuestSpec:
    return guests.GuestSpec(name=name, host="alpha", kind="qemu")


def test_guests_that_start_at_once_get_an_address_each(lab: Lab) -> None:
    with ThreadPoolExecutor(16) as threads:
        claimed = list(threads.map(lambda number: guests._claim(lab, spec(f"g{number}")), range(48)))
    assert len({guest.address for guest in claimed}) == 48
    assert guests.records(lab) == {guest.name: guest for guest in claimed}


def test_a_name_is_given_once(lab: Lab) -> None:
    guests._claim(lab, spec("web1"))
    with pytest.raises(LabError, match="already a guest 'web1'"):
        guests._claim(lab, spec("web1"))
