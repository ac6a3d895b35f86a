"""The auditor's conclusions, fact by fact: it must say so when something is wrong, and stay quiet when nothing is."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.lab.observe import disk
from segue.lab.observe.judge import (
    NS_PER_MS,
    Ack,
    DiskReport,
    Memory,
    Probe,
    Record,
    Report,
    Tick,
    judge,
    judge_disk,
)

MS = NS_PER_MS
BOOT = "cafe0001"


def ticking(host: str, seqs: Iterable[int], *, at_ms: int = 0, boot: str = BOOT) -> list[Tick]:
    """A tick every 10 ms, the first of these at `at_ms`."""
    return [
        Tick(host=host, boot=boot, seq=seq, mono_ms=seq * 10, at_ns=(at_ms + number * 10) * MS) for number, seq in enumerate(seqs)
    ]


def judged(ticks: list[Tick], probes: Iterable[Probe] = (), *, until_ms: int = 1000) -> Report:
    in_order = sorted(ticks, key=lambda tick: tick.at_ns)
    return judge(in_order, list(probes), [], None, since_ns=0, until_ns=until_ms * MS)


def test_a_guest_that_only_ticks_is_clean() -> None:
    report = judged(ticking("alpha", range(100)))
    assert report.clean
    assert (report.copies, report.ticks_lost, report.ticks_repeated) == (1, 0, 0)
    assert (report.tick_gap_ms, report.running_on) == (10, "alpha")


def test_a_move_is_clean_and_its_gap_is_seen() -> None:
    report = judged([*ticking("alpha", range(40)), *ticking("beta", range(40, 90), at_ms=500)])
    assert report.clean
    assert report.tick_gap_ms == 110
    assert report.guest_gap_ms == 10
    assert report.hosts == ("alpha", "beta")
    assert report.running_on == "beta"


def test_there_and_back_is_one_copy() -> None:
    report = judged(
        [*ticking("alpha", range(30)), *ticking("beta", range(30, 60), at_ms=310), *ticking("alpha", range(60, 95), at_ms=620)]
    )
    assert report.copies == 1
    assert report.clean


def test_a_fork_is_two_copies_and_repeats() -> None:
    report = judged([*ticking("alpha", range(100)), *ticking("beta", range(50, 100), at_ms=505)])
    assert report.copies == 2
    assert report.ticks_repeated == 50
    assert report.copies_at_ms
    assert not report.clean


def test_a_fork_into_one_log_is_told_by_its_repeats() -> None:
    report = judged([*ticking("alpha", range(60)), *ticking("alpha", range(50, 60), at_ms=605)])
    assert report.copies == 2


def test_two_boots_at_once_are_two_copies() -> None:
    report = judged([*ticking("alpha", range(100)), *ticking("beta", range(40), at_ms=305, boot="cafe0002")])
    assert report.copies == 2
    assert report.ticks_repeated == 0


def test_a_restart_is_not_two_copies() -> None:
    assert judged([*ticking("alpha", range(40)), *ticking("beta", range(40), at_ms=500, boot="cafe0002")]).copies == 1


def test_lost_ticks_are_counted() -> None:
    assert judged(ticking("alpha", [*range(40), *range(43, 90)])).ticks_lost == 3


def test_a_guest_that_stopped_runs_nowhere() -> None:
    report = judged(ticking("alpha", range(20)))
    assert report.running_on == ""


def test_nothing_at_all_is_not_clean() -> None:
    report = judged([])
    assert report.copies == 0
    assert not report.clean


def test_memory_errors_are_told() -> None:
    said = [Memory(boot=BOOT, errors=count, at_ns=count * MS) for count in range(4)]
    report = judge(ticking("alpha", range(100)), [], said, None, since_ns=0, until_ns=1000 * MS)
    assert report.memory_errors == 3
    assert not report.clean


def probing(outages_ms: Iterable[tuple[int, int]], *, skipped_ms: tuple[int, int] = (0, 0)) -> list[Probe]:
    probes = []
    for at in range(0, 1000, 5):
        if skipped_ms[0] <= at < skipped_ms[1]:
            continue
        out = any(begin <= at < end for begin, end in outages_ms)
        probes.append(Probe(sent_ns=at * MS, answered_ns=0 if out else (at + 1) * MS))
    return probes


@pytest.mark.parametrize(("begin", "end"), [(200, 300), (200, 205), (500, 995)])
def test_clients_see_an_outage_as_long_as_it_was(begin: int, end: int) -> None:
    gap = judged(ticking("alpha", range(100)), probing([(begin, end)])).client_gap_ms
    assert abs(gap - (end - begin)) <= 6


def test_an_outage_that_lasts_is_counted_to_the_end() -> None:
    assert judged(ticking("alpha", range(100)), probing([(400, 1000)])).client_gap_ms == 600


def test_a_prober_that_was_late_is_not_held_against_the_guest() -> None:
    assert judged(ticking("alpha", range(100)), probing([], skipped_ms=(300, 600))).client_gap_ms <= 6


def chain(count: int, *, boot: str = BOOT) -> list[Record]:
    """A disk as it should be."""
    records, previous = [], 0
    for seq in range(count):
        crc = zlib.crc32(f"{boot} {seq} {previous}".encode())
        records.append(Record(slot=seq, boot=boot, seq=seq, prev_crc=previous, crc=crc, valid=True))
        previous = crc
    return records


def acks(records: Iterable[Record]) -> list[Ack]:
    return [Ack(boot=record.boot, seq=record.seq, crc=record.crc) for record in records]


def test_a_whole_disk_is_clean() -> None:
    records = chain(50)
    assert judge_disk(records, acks(records)) == DiskReport(written=50, acknowledged=50)


def test_a_record_that_was_told_safe_and_is_not_there_is_lost() -> None:
    records = chain(50)
    assert judge_disk(records[:-1], acks(records)).lost == 1


def test_a_hole_is_lost_and_breaks_the_chain() -> None:
    records = chain(50)
    report = judge_disk(records[:20] + records[21:], acks(records))
    assert (report.lost, report.chain_breaks) == (1, 1)


def test_a_record_that_does_not_read_is_lost() -> None:
    records = chain(50)
    records[20] = replace(records[20], valid=False)
    assert judge_disk(records, acks(chain(50))).lost == 1


def test_a_doubled_record_is_told() -> None:
    records = chain(50)
    report = judge_disk([*records, replace(records[-1], slot=50)], acks(records))
    assert (report.doubled, report.out_of_order, report.chain_breaks) == (1, 1, 1)


def test_swapped_records_are_out_of_order() -> None:
    records = chain(50)
    records[20], records[21] = replace(records[21], slot=20), replace(records[20], slot=21)
    assert judge_disk(records, acks(chain(50))).out_of_order == 2


def test_a_second_writer_breaks_the_chain_and_loses_what_the_first_was_told() -> None:
    mine, other = chain(50), chain(50, boot="cafe0002")
    report = judge_disk([*mine[:30], *other[30:]], acks(mine))
    assert report.chain_breaks == 1
    assert report.lost == 20


@given(st.integers(2, 60), st.data())
def test_no_change_of_a_disk_goes_unnoticed(count: int, data: st.DataObject) -> None:
    """Whatever one record is changed into, taken away or put in another's place: the report is not clean."""
    records = chain(count)
    told = acks(records)
    slot = data.draw(st.integers(0, count - 1))
    other = data.draw(st.integers(0, count - 1).filter(lambda number: number != slot))
    change = data.draw(st.sampled_from(["remove", "damage", "copy"]))
    if change == "remove":
        del records[slot]
    else:
        records[slot] = replace(records[slot], valid=False) if change == "damage" else replace(records[other], slot=slot)
    assert not judge_disk(records, told).clean


@given(st.lists(st.integers(0, 200), min_size=1, unique=True))
def test_lost_ticks_are_exactly_those_that_are_missing(seqs: list[int]) -> None:
    report = judged(ticking("alpha", sorted(seqs)), until_ms=5000)
    assert report.ticks_lost == max(seqs) - min(seqs) + 1 - len(seqs)


def test_the_disk_is_read_as_the_guest_writes_it(tmp_path: Path) -> None:
    """The format of guest/workload.c, written here by hand."""
    image, previous = tmp_path / "disk.img", 0
    with image.open("wb") as file:
        for seq in range(3):
            head = struct.pack("<8s8sQQI", b"SEGUEREC", BOOT.encode(), seq, seq * 50, previous)
            previous = zlib.crc32(head)
            file.write((head + struct.pack("<I", previous)).ljust(512, b"\0"))
        file.truncate(1 << 20)
    records = disk.read(image)
    assert [(record.slot, record.seq, record.valid) for record in records] == [(0, 0, True), (1, 1, True), (2, 2, True)]
    assert judge_disk(records, acks(records)).clean
