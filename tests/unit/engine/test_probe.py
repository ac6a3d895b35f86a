"""The prober, against real sockets on this machine's loopback: what answers, what falls silent, what is not there."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from segue.core.downtime import ProbeKind, ProbeTarget, parse_probe
from segue.engine.probe import Prober, check
from segue.errors import RefusedError

DEADLINE_S = 10.0


class Echo:
    """A UDP service that answers, until it is told to be silent."""

    def __init__(self) -> None:
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.bind(("127.0.0.1", 0))
        self.target = ProbeTarget(kind=ProbeKind.UDP, address="127.0.0.1", port=self._sock.getsockname()[1])
        self.answers = threading.Event()
        self.answers.set()
        self.missed = threading.Semaphore(0)
        """Counts the questions that were not answered."""
        threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        while True:
            data, peer = self._sock.recvfrom(64)
            if not data:
                self._sock.close()
                return
            if self.answers.is_set():
                self._sock.sendto(data, peer)
            else:
                self.missed.release()

    def close(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", ("127.0.0.1", self.target.port))


@pytest.fixture
def echo() -> Iterator[Echo]:
    service = Echo()
    yield service
    service.close()


@contextmanager
def asking(target: ProbeTarget) -> Iterator[Prober]:
    prober = Prober(target)
    prober.start()
    try:
        yield prober
    finally:
        prober.stop()


def heard(prober: Prober) -> None:
    asyncio.run(prober.next_answer(deadline_s=DEADLINE_S))
    asyncio.run(prober.next_answer(deadline_s=DEADLINE_S))


def test_a_silence_is_measured_from_a_question_to_the_next_answer(echo: Echo) -> None:
    with asking(echo.target) as prober:
        heard(prober)
        echo.answers.clear()
        for _ in range(20):  # 20 questions, 5 ms apart or more
            assert echo.missed.acquire(timeout=DEADLINE_S)
        echo.answers.set()
        heard(prober)
        seen = prober.seen()
    assert seen.downtime_ms is not None
    assert seen.downtime_ms >= 19 * 5
    assert not seen.silent
    assert seen.asked > seen.answered
    assert max(gap.ms for gap in prober.gaps) == seen.downtime_ms


def test_a_silence_before_the_first_answer_is_nobodys_downtime(echo: Echo) -> None:
    echo.answers.clear()
    with asking(echo.target) as prober:
        for _ in range(20):
            assert echo.missed.acquire(timeout=DEADLINE_S)
        assert prober.seen().downtime_ms is None
        echo.answers.set()
        asyncio.run(prober.next_answer(deadline_s=DEADLINE_S))
        assert all(gap.ms < 19 * 5 for gap in prober.gaps)


@pytest.mark.parametrize("listens", [True, False])
def test_a_port_answers_to_a_connection_whether_it_is_open_or_closed(listens: bool) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if listens:
            server.listen(200)
        with asking(parse_probe(f"tcp:127.0.0.1:{server.getsockname()[1]}")) as prober:
            heard(prober)
    assert prober.seen().answered >= 2


def test_ping_needs_no_service() -> None:
    with asking(parse_probe("ping:127.0.0.1")) as prober:
        heard(prober)
    assert prober.seen().answered >= 2


def test_an_address_that_is_none_is_refused_in_words() -> None:
    with pytest.raises(RefusedError, match="has no address"):
        check(ProbeTarget(kind=ProbeKind.UDP, address="256.1.1.1.1", port=7))


def test_ping6_needs_no_service() -> None:
    try:
        check(parse_probe("ping:::1"))
    except RefusedError:
        pytest.skip("no IPv6 here")
    with asking(parse_probe("ping:::1")) as prober:
        heard(prober)
    assert prober.seen().answered >= 2
