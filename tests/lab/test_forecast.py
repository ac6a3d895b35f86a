"""What is said of a migration beforehand, between two hosts that have never moved a guest to each other."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import pytest

from segue import units
from segue.core.measured import GOODPUT
from segue.lab import Lab
from segue.lab.guests import GuestSpec, LabGuest
from segue.units import parse_rate
from tests.lab.conftest import SEGUE

pytestmark = pytest.mark.lab


def test_where_nobody_knows_what_the_path_carries_it_is_tried(lab: Lab, start_guest: Callable[[GuestSpec], LabGuest]) -> None:
    guest = start_guest(GuestSpec(name="foreseen", host="alpha", kind="libvirt", touch_bytes=48 * units.MIB))
    argv = ["env", "SEGUE_STATE=/run/segue-fresh", SEGUE, "forecast", guest.name, "beta", "--json"]
    done = asyncio.run(lab.run("admin", argv, deadline_s=40))
    told = json.loads(done.stdout)
    assert told["unmeasured"] == []
    assert told["seen"]["path"]["how"].startswith("tried for ")
    bps = parse_rate("1gbit") * GOODPUT
    assert told["seen"]["path"]["bps"]["likely"] == pytest.approx(bps, rel=0.2)
    assert told["forecast"]["precopy"]["converges"]
    assert told["forecast"]["choice"] == "pre-copy"
