"""Three downtimes that are never mixed, and the switchover in its parts, from invented news."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.core.downtime import Gap, Moments, ProbeKind, ProbeTarget, Switchover, client, parse_probe, parts
from segue.errors import UsageError

PING = ProbeTarget(kind=ProbeKind.PING, address="10.0.0.5")


@pytest.mark.parametrize(
    ("text", "kind", "address", "port"),
    [
        ("ping:10.0.0.5", ProbeKind.PING, "10.0.0.5", 0),
        ("ping:fd00::5", ProbeKind.PING, "fd00::5", 0),
        ("tcp:web1:443", ProbeKind.TCP, "web1", 443),
        ("udp:[fd00::5]:7", ProbeKind.UDP, "fd00::5", 7),
    ],
)
def test_a_probe_is_read_and_written_as_people_write_it(text: str, kind: ProbeKind, address: str, port: int) -> None:
    target = parse_probe(text)
    assert (target.kind, target.address, target.port) == (kind, address, port)
    assert str(target) == text


@pytest.mark.parametrize(
    "text", ["", "ping", "ping:", "tcp:web1", "tcp:web1:0", "tcp:web1:99999", "tcp::80", "udp:fd00::5:7", "http:web1", "ping:a b"]
)
def test_what_is_no_probe_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_probe(text)


@given(st.text(max_size=20))
def test_whatever_is_written_is_a_probe_or_a_mistake_in_words(text: str) -> None:
    try:
        target = parse_probe(text)
    except UsageError:
        return
    assert parse_probe(str(target)) == target


def test_a_client_saw_the_longest_gap() -> None:
    gaps = [Gap(began_ms=100, ended_ms=130), Gap(began_ms=500, ended_ms=640)]
    seen = client(PING, gaps, waiting_since_ms=995, asked=200, answered=180, now_ms=1000)
    assert (seen.downtime_ms, seen.silent) == (140, False)


def test_a_silence_that_goes_on_is_told_as_one() -> None:
    seen = client(PING, [Gap(began_ms=100, ended_ms=130)], waiting_since_ms=500, asked=200, answered=80, now_ms=5500)
    assert (seen.downtime_ms, seen.silent) == (5000, True)


def test_where_no_answer_ever_came_nothing_is_known() -> None:
    seen = client(PING, [], waiting_since_ms=0, asked=200, answered=0, now_ms=5000)
    assert (seen.downtime_ms, seen.silent) == (None, False)


def test_the_switchover_falls_into_its_parts() -> None:
    moments = Moments(stopped_ms=1000, arrived_ms=1080, resumed_ms=1090, last_pass_bytes=6_000_000, last_pass_bps=100_000_000)
    gaps = [Gap(began_ms=300, ended_ms=340), Gap(began_ms=998, ended_ms=1115)]
    assert parts(moments, gaps) == Switchover(
        copying_ms=80, last_pass_ms=60, device_state_ms=20, resume_ms=10, first_answer_ms=25
    )


def test_a_resumption_that_is_told_too_late_belongs_to_the_gap_in_which_the_guest_stood() -> None:
    gaps = [Gap(began_ms=300, ended_ms=340), Gap(began_ms=998, ended_ms=1058), Gap(began_ms=1056, ended_ms=1064)]
    told = parts(Moments(stopped_ms=1000, arrived_ms=1045, resumed_ms=1060), gaps)
    assert (told.copying_ms, told.resume_ms, told.first_answer_ms) == (45, 15, 0)


def test_a_part_that_nobody_heard_of_is_not_known() -> None:
    assert parts(Moments(), []) == Switchover()
    heard = parts(Moments(stopped_ms=1000, arrived_ms=1080), [])
    assert (heard.copying_ms, heard.last_pass_ms, heard.device_state_ms, heard.resume_ms) == (80, None, None, None)


def test_a_last_pass_is_never_reckoned_longer_than_the_standstill() -> None:
    split = parts(Moments(stopped_ms=0, arrived_ms=50, last_pass_bytes=10_000_000, last_pass_bps=1_000_000), [])
    assert (split.last_pass_ms, split.device_state_ms) == (50, 0)
