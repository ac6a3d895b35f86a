"""A slice of the table of guests and transports: each shape once there and back, each another way. `./run shapes` plays all."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from segue.lab import Lab
from tests.shapes.play import Moved, played, started
from tests.shapes.shapes import CHANGED, DAEMON, MULTIFD, NOBODY, PLUGGED, POSTCOPY, SSH, TLS_PSK, Shape, Way

pytestmark = pytest.mark.lab


def with_one_cpu(shape: Shape) -> Shape:
    """The same with one CPU: with several, emulation loses a guest now and then (docs/guide/bare-qemu.md, "What was seen")."""
    words = list(shape.words)
    words[words.index("-smp") + 1] = "1"
    return replace(shape, words=tuple(words))


SLICE = [(with_one_cpu(CHANGED), TLS_PSK), (PLUGGED, POSTCOPY), (with_one_cpu(DAEMON), MULTIFD), (NOBODY, SSH)]


@pytest.mark.parametrize(("shape", "way"), SLICE, ids=lambda one: one.title)
def test_a_guest_of_that_shape_travels_whole(lab: Lab, shape: Shape, way: Way) -> None:
    async def play() -> Moved:
        async with started(lab, shape) as guest:
            return await played(lab, guest, shape, way, 1)

    assert asyncio.run(play()).wrong == ()
