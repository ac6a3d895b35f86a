"""The bench of convergence, but for the playing: the ladders are ladders, and results are judged as a person would."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from convergence import picture, report
from convergence.grid import CONTENDERS, LINKS, WORKLOADS, cells
from convergence.play import LADDERS, Run, announced_ms
from segue import config, units

CELL = "steady-16@300mbit"
CELLS = {cell.name: cell for cell in cells(tuple(WORKLOADS), tuple(LINKS))}


def run(contender: str, seconds: float, number: int = 1, **seen: object) -> Run:
    told: dict[str, object] = {"end": "moved", "client_ms": 200, "memory_bytes": 160 * units.MIB, **seen}
    return Run(cell=CELL, contender=contender, round=number, seconds=seconds, **told)  # type: ignore[arg-type]


def verdicts(*runs: Run) -> list[str]:
    [result] = report.judge(runs, {CELL: CELLS[CELL]}, cut_s=60).cells
    return report.verdicts(result)


def test_every_ladder_is_one_that_segue_climbs(tmp_path: Path) -> None:
    file = tmp_path / "segue.toml"
    file.write_text(LADDERS.read_text(encoding="utf-8"), encoding="utf-8")
    policies = config.load(file).policies
    climbed = {one.options[one.options.index("--policy") + 1] for one in CONTENDERS.values() if "--policy" in one.options}
    assert set(policies) == climbed
    assert policies["nova"].rungs[-2].downtime_ms == 500
    assert policies["ganeti-postcopy"].needs_postcopy


def test_every_workload_fits_into_its_guest() -> None:
    for workload in WORKLOADS.values():
        spec = workload.spec()
        assert spec.memory_bytes > max(spec.touch_bytes, spec.set_bytes)


@pytest.mark.parametrize(
    ("mine", "verdict"),
    [
        ({"seconds": 9.0}, "won: 0.90 times virsh"),
        ({"seconds": 10.4}, "even: 1.04 times virsh"),
        ({"seconds": 12.0}, "LOST: 1.20 times virsh"),
        ({"seconds": 60.0, "end": "cut"}, "LOST: virsh keeps the promise, it cut 1 of 1"),
        ({"seconds": 9.0, "client_ms": 900}, "LOST: virsh keeps the promise; a client waited for 900 ms, UNANNOUNCED"),
        (
            {"seconds": 9.0, "client_ms": 900, "announced_ms": 800},
            "LOST: virsh keeps the promise; a client waited for 900 ms, announced were 800",
        ),
    ],
)
def test_who_is_slower_or_breaks_the_promise_has_lost(mine: dict[str, object], verdict: str) -> None:
    [said] = verdicts(run("virsh", 10.0), run("segue", **mine))  # type: ignore[arg-type]
    assert said.startswith(f"segue: {verdict}")


def test_a_peer_that_breaks_the_promise_is_none_to_be_measured_by() -> None:
    [said] = verdicts(run("kubevirt", 5.0, client_ms=800), run("segue", 10.0))
    assert said == "segue: no peer keeps the promise; it does"


def test_where_virsh_is_first_it_is_said_how_the_ladders_do_that_start_as_segue_does() -> None:
    runs = [run("virsh", 2.0), run("nova", 4.0), run("proxmox", 2.9)]
    [lost] = verdicts(*runs, run("segue", 2.8))
    [even] = verdicts(*runs, run("segue", 2.1))
    told = "LOST: 1.40 times virsh, the best that keeps the promise; 0.97 times proxmox, the best ladder that starts as it does"
    assert lost == f"segue: {told}"
    assert even == "segue: even: 1.05 times virsh, the best that keeps the promise"


def test_a_peer_with_post_copy_is_measured_against_segue_with_it() -> None:
    plain, with_postcopy = verdicts(
        run("virsh-postcopy", 5.0), run("virsh", 60.0, end="cut"), run("segue", 60.0, end="gave up"), run("segue-postcopy", 5.0)
    )
    assert plain == "segue: no peer keeps the promise; it gave up 1 of 1, within 60.0 s"
    assert with_postcopy.startswith("segue-postcopy: won")


def test_what_the_last_forecast_announced_is_read_from_what_was_told() -> None:
    told = "forecast{}: pre-copy: 9.1 s (8 s to 1 min 2 s) in all, standing still for {} (20 ms to 1.07 s), 3 MiB sent; so it is"
    words = "\n".join(
        ["segue: " + told.format("", "377 ms"), "segue: " + told.format(", corrected", "1.07 s (more than asked)"), "x"]
    )
    assert announced_ms(words) == 1070
    assert announced_ms("no such words") is None
    begins = "segue: first-look: Clients of mover will wait for about {} when it begins to move"
    warned = begins.format("1.02 s") + "; 300 ms of standstill are promised.\n"
    assert announced_ms(warned) == 1020
    assert announced_ms(warned + words) == 1070
    busy = begins.format("55 ms") + ", and for about 196 ms more for each 16 MiB that it keeps writing to"
    assert (announced_ms(busy), announced_ms(busy, 32)) == (55, 447)
    slowed = "segue: the guest is slowed by 99 %: its clients may wait for up to 1.98 s now and then\n"
    assert announced_ms(slowed + words) == 1980


def test_the_whole_process_counts_of_segue_as_of_virsh() -> None:
    [result] = report.judge([run("segue", 20.0, total_ms=5000)], {CELL: CELLS[CELL]}, cut_s=60).cells
    [row] = result.rows
    assert row.seconds is not None
    assert row.seconds.median == 20.0
    assert row.factor == pytest.approx(20.0 / (160 * units.MIB / (37.5e6 * 0.956)))


def test_the_table_and_the_picture_are_whole() -> None:
    runs = [run(name, 5.0 + number) for number, name in enumerate(CONTENDERS)] + [run("virsh", 60.0, 2, end="cut")]
    judged = report.judge(runs, CELLS, cut_s=60)
    for name in CONTENDERS:
        assert name in report.text(judged)
        assert name in report.markdown(judged, picture=None)
    drawn = ET.fromstring(picture.draw(judged))  # noqa: S314  # our own
    assert len(drawn.findall(".//{http://www.w3.org/2000/svg}title")) == len(CONTENDERS)
