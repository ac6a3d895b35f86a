"""What a play leaves behind when it is broken off: nothing; and whether the page of findings is about all of them."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from segue.core.preflight import CHECKS
from tests.findings import results
from tests.findings.network import EVERY

PLAY = """
import asyncio
from tests.support.labs import to_its_end

async def play():
    try:
        print("up", flush=True)
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(0)
        print("down", flush=True)

to_its_end(play())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_play_that_is_broken_off_takes_down_what_it_had_up(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", PLAY], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as playing:
        assert playing.stdout is not None
        assert playing.stderr is not None
        assert playing.stdout.readline() == "up\n"
        playing.send_signal(number)
        assert playing.stdout.readline() == "down\n"
        assert playing.wait(timeout=20) == 1
        assert playing.stderr.read() == "broken off; what was up is down\n"


def test_the_page_of_findings_is_written_from_what_was_played_last() -> None:
    kept = results.load()
    assert results.PAGE.read_text(encoding="utf-8") == results.page(kept)
    assert {str(case) for case in EVERY} <= set(kept)


def test_each_finding_is_provoked_here_or_elsewhere_or_it_is_said_what_that_takes() -> None:
    told = [*{case.code for case in EVERY}, *results.ELSEWHERE, *results.TAKES]
    assert sorted(told) == sorted(CHECKS)
    root = Path(__file__).parents[2]
    assert all(code in (root / file).read_text(encoding="utf-8") for code, file in results.ELSEWHERE.items())
