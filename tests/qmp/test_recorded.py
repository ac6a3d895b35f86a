"""The fake QEMU answers as the real one does: both are asked the same, and the shapes of what they say are equal."""

from __future__ import annotations

import contextlib
import functools
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.qmp import plays
from tests.qmp.plays import PLAYS, heard_in, play, shapes
from tests.support.fake_qmp import Guest, Recorded

RECORDING = plays.RECORDED / "qemu-7.2.json"


@functools.cache
def recorded() -> Recorded:
    return Recorded(plays.load(RECORDING), PLAYS)


@contextlib.asynccontextmanager
async def fake(directory: Path) -> AsyncIterator[tuple[str, str]]:
    """Two fakes."""
    guest = Guest(recorded())
    both = (guest.source, guest.make_destination())
    paths = [str(directory / side) for side in plays.SIDES]
    try:
        for qemu, path in zip(both, paths, strict=True):
            await qemu.serve(path)
        yield paths[0], paths[1]
    finally:
        for qemu in both:
            await qemu.aclose()


@pytest.mark.parametrize("name", PLAYS)
async def test_the_fake_says_what_was_recorded(name: str) -> None:
    assert shapes(await play(PLAYS[name], fake)) == shapes(heard_in(plays.load(RECORDING), name))


@pytest.mark.parametrize("name", PLAYS)
async def test_the_real_one_says_what_was_recorded(name: str) -> None:
    version = subprocess.run([plays.QEMU, "--version"], capture_output=True, text=True, check=True).stdout  # noqa: ASYNC221
    if f"version {RECORDING.stem.removeprefix('qemu-')}." not in version:
        pytest.skip(f"{RECORDING.stem} was recorded, and this is another: {version.splitlines()[0]}")
    assert shapes(await play(PLAYS[name], plays.real)) == shapes(heard_in(plays.load(RECORDING), name))
