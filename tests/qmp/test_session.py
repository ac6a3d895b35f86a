"""One session with a peer that sends anything: each call ends in time, with an answer or an error of ours, and costs little."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import tempfile
import tracemalloc
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from segue import units
from segue.drivers.qemu import session as sessions
from segue.drivers.qemu.session import Session
from segue.errors import AnswerNotSeen, HypervisorError, SegueError
from tests.qmp.test_recorded import recorded
from tests.support import skipping_clock
from tests.support.fake_hosts import MONITOR, FakeShell
from tests.support.fake_qmp import FakeQemu, Faults, Guest
from tests.support.qmp_faults import CHOOSE, DEEDS, Fault

GREETING, NEGOTIATED, FIRST = 0, 1, 2
"""The number of what a peer sends: its greeting, its answer to qmp_capabilities, its first answer to anything else."""

Act = Callable[[Session, FakeQemu], Coroutine[Any, Any, None]]


@contextlib.asynccontextmanager
async def peer(*faults: Fault) -> AsyncIterator[FakeShell]:
    with tempfile.TemporaryDirectory(prefix="sq-") as directory:
        guest = Guest(recorded())
        guest.source.faults = Faults(planned=faults)
        shell = FakeShell("alpha", guest, Path(directory), guest.source, Faults())
        await shell.serve(MONITOR)
        try:
            yield shell
        finally:
            await shell.end()


def play(act: Act, *faults: Fault) -> float:
    """Connect and act; how long it took. Nothing is left behind, and nothing went wrong that nobody awaited."""

    async def whole() -> None:
        async with peer(*faults) as shell:
            session = await Session.connect(shell, "web", MONITOR)
            async with contextlib.aclosing(session):
                assert shell._qemu is not None
                await act(session, shell._qemu)
            assert not session.is_open
        assert asyncio.all_tasks() == {asyncio.current_task()}

    _, took_s, complaints = skipping_clock.run(whole)
    assert complaints == []
    return took_s


@pytest.fixture(autouse=True, scope="module")
def finds_what_is_open() -> Iterator[None]:
    """What was left open is found."""
    yield
    gc.collect()


@pytest.mark.parametrize("do", DEEDS)
@pytest.mark.parametrize("at", [GREETING, NEGOTIATED])
def test_a_monitor_that_cannot_be_connected_is_an_error_in_time(do: str, at: int) -> None:
    async def act(session: Session, _: FakeQemu) -> None:
        """A few faults do no harm, or are seen with the first command."""
        with contextlib.suppress(SegueError):
            await session.query("query-status")

    for which in range(0, 60, 7) if do in CHOOSE else (0,):
        with contextlib.suppress(HypervisorError):
            assert play(act, Fault(at=at, do=do, which=which)) <= sessions.GREETING_DEADLINE_S + sessions.COMMAND_DEADLINE_S + 0.1


@pytest.mark.parametrize("do", DEEDS)
def test_an_answer_that_is_none_is_an_error_in_time(do: str) -> None:
    async def act(session: Session, _: FakeQemu) -> None:
        with contextlib.suppress(HypervisorError):
            assert isinstance(await session.query("query-status", deadline_s=2), dict)

    for which in range(0, 60, 7) if do in CHOOSE else (0,):
        assert play(act, Fault(at=FIRST, do=do, which=which)) <= 2.1


@pytest.mark.parametrize("do", ["null", "list", "deep", "many digits", "no utf-8", "100 MB", "odd id", "half a line and close"])
def test_what_cannot_be_read_ends_the_session_in_our_words(do: str) -> None:
    async def act(session: Session, _: FakeQemu) -> None:
        with pytest.raises(AnswerNotSeen) as caught:
            await session.execute("cont")
        assert caught.value.raw
        assert len(str(caught.value)) + len(caught.value.raw) < 1000
        assert not session.is_open
        with pytest.raises(AnswerNotSeen):  # and it stays over
            await session.execute("query-status")

    odd_list = 19
    play(act, Fault(at=FIRST, do=do, which=odd_list))


def test_an_answer_of_the_wrong_type_is_not_an_empty_one() -> None:
    """An empty query-migrate is a QEMU that never migrated: nothing else may look like it."""

    async def act(session: Session, _: FakeQemu) -> None:
        with pytest.raises(HypervisorError, match="no answer to it"):
            await session.query("query-migrate")
        assert await session.query("query-migrate") == {}

    play(act, Fault(at=FIRST, do="a field", which=0))  # null


def test_a_line_of_100_mb_costs_no_100_mb() -> None:
    async def act(session: Session, qemu: FakeQemu) -> None:  # noqa: ARG001
        tracemalloc.start()
        try:
            with pytest.raises(AnswerNotSeen):
                await session.execute("query-status")
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert most < 12 * units.MIB

    play(act, Fault(at=FIRST, do="100 MB"))


def test_events_without_end_are_not_kept() -> None:
    async def act(session: Session, qemu: FakeQemu) -> None:
        tracemalloc.start()
        try:
            for _number in range(20_000):
                qemu.says("MIGRATION_PASS", **{"pass": 1})
                if len(qemu._pending) == 1000:
                    await session.execute("query-status")
            kept, __ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert kept < 2 * units.MIB
        await session.woken(timeout_s=60)

    assert play(act) < 1


def test_events_wake_once_and_the_end_wakes_too() -> None:
    async def act(session: Session, qemu: FakeQemu) -> None:
        for _ in range(3):
            qemu.says("STOP")
        await session.execute("query-status")
        await session.woken(timeout_s=60)
        began_s = asyncio.get_running_loop().time()
        await session.woken(timeout_s=1)
        assert asyncio.get_running_loop().time() - began_s >= 1
        qemu.end()
        await session.woken(timeout_s=60)
        assert await session.ended(timeout_s=60)

    assert play(act) < 2


def test_a_peer_that_reads_nothing_any_more_is_left_at_once() -> None:
    """Commands that nobody reads fill the socket; to wait until they are read would be to wait for ever."""

    async def act(session: Session, _: FakeQemu) -> None:
        with pytest.raises(AnswerNotSeen):
            await session.execute("query-status", deadline_s=1)
        many = (session.execute("query-status", {"much": "x" * 100_000}, deadline_s=1) for _ in range(20))
        errors = await asyncio.gather(*many, return_exceptions=True)
        assert {type(error) for error in errors} == {AnswerNotSeen}

    assert play(act, Fault(at=FIRST, do="deaf")) < 2.1


def test_a_session_may_be_closed_by_several_at_once_and_by_one_who_is_cancelled() -> None:
    async def act(session: Session, _: FakeQemu) -> None:
        impatient = asyncio.create_task(session.aclose())
        await asyncio.sleep(0)
        impatient.cancel()
        await asyncio.gather(session.aclose(), session.aclose())
        assert impatient.cancelled()

    play(act)


def test_a_monitor_that_greets_and_stops_is_not_said_to_be_in_use() -> None:
    async def act(_: Session, __: FakeQemu) -> None:
        raise AssertionError

    with pytest.raises(HypervisorError, match="greets, and then does not answer"):
        play(act, Fault(at=NEGOTIATED, do="stall"))
    with pytest.raises(HypervisorError, match="in use by somebody else"):
        play(act, Fault(at=GREETING, do="stall"))
