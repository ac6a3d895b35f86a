"""A migration drawn: aligned, whole, and the same in both ways."""

from __future__ import annotations

import contextlib
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from segue.cli import plot
from segue.cli.show import show
from segue.core.model import DriverKind, HostAddress, JobStatus, MigrationSpec, Progress
from segue.core.phases import State
from segue.core.record import Holder, Note, Record, Sample, Story, Transition
from segue.errors import UsageError
from segue.store import open_store
from segue.units import MIB

BEGAN_MS = 1_700_000_000_000
SVG = "{http://www.w3.org/2000/svg}"
HERE = HostAddress(name="alpha", uri="qemu+tcp://alpha/system", driver=DriverKind.LIBVIRT)
RECORD = Record(
    spec=MigrationSpec(id="3f2a", guest="<web>", source="alpha", destination="beta", driver=DriverKind.LIBVIRT),
    source=HERE,
    destination=HERE,
    created_at_ms=BEGAN_MS,
)
STORY = Story(
    transitions=tuple(
        Transition(at_ms=BEGAN_MS + at, epoch=1, state=state)
        for at, state in (
            (0, State.PREPARE),
            (100, State.PERFORM),
            (9990, State.FINISH),
            (9995, State.VERIFY),
            (10_000, State.MOVED),
        )
    ),
    entries=(),
    notes=(
        Note(at_ms=BEGAN_MS + 5000, epoch=1, text="start-post-copy: it does not converge, and that is a long sentence " * 3),
        Note(at_ms=BEGAN_MS + 5001, epoch=1, text="alpha runs it: owner source, nothing"),
    ),
)


def looks(count: int = 100) -> list[Sample]:
    """A saw-tooth of ten iterations."""
    return [
        Sample(
            at_ms=BEGAN_MS + 100 * number,
            progress=Progress(
                elapsed_ms=100 * number,
                status=JobStatus.ACTIVE,
                ram_total_bytes=256 * MIB,
                ram_remaining_bytes=(100 - 10 * (number % 10)) * MIB,
                throughput_bps=34 * MIB,
                dirty_bps=60 * MIB,
            ),
        )
        for number in range(1, count)
    ]


def lines(samples: list[Sample], width: int = 80) -> list[str]:
    return [line.plain for line in plot.terminal(plot.plot(RECORD, STORY, samples), width=width)]


@pytest.mark.parametrize("width", [40, 80, 132])
def test_no_line_is_longer_than_the_terminal_is_wide(width: int) -> None:
    assert max(map(len, lines(looks(), width))) <= width


def test_the_teeth_of_what_is_left_are_kept() -> None:
    heading = next(number for number, line in enumerate(lines(looks())) if "left to send" in line)
    top = lines(looks())[heading + 1]
    assert top.split("│")[0].strip() == "100.0 MiB"
    assert "█" in top.split("│")[1]


def test_both_rates_share_a_scale() -> None:
    assert sum("60.0 MiB/s │" in line for line in lines(looks())) == 2


def test_what_happened_is_numbered_and_told_once_each_and_only_what_matters() -> None:
    told = "\n".join(lines(looks()))
    assert [mark.text.partition(":")[0] for mark in plot.plot(RECORD, STORY, looks()).marks] == [
        "perform",
        "start-post-copy",
        "finish",
        "moved",
    ]
    assert "owner source" not in told
    for number in "1234":
        assert sum(line.lstrip().startswith(f"{number}  ") for line in told.splitlines()) >= 1


def test_a_migration_without_samples_is_drawn_too() -> None:
    assert lines([])
    assert ET.fromstring(plot.svg(plot.plot(RECORD, STORY, []))).findall(f"{SVG}polyline") == []  # noqa: S314  # our own


def test_the_picture_is_one_file_of_its_own_with_everything_escaped() -> None:
    written = plot.svg(plot.plot(RECORD, STORY, looks()))
    root = ET.fromstring(written)  # noqa: S314  # our own
    assert len(root.findall(f"{SVG}polyline")) == 3
    assert "<web>: alpha" in "".join(root.itertext())
    assert "http" not in written.replace("http://www.w3.org/2000/svg", "")
    assert "prefers-color-scheme: dark" in written


def test_the_verb_draws_what_is_written_in_the_terminal_and_as_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SEGUE_STATE", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "80")
    with contextlib.closing(open_store(str(tmp_path))) as store:
        store.create(RECORD)
        me = Holder(machine="here", pid=1, started=1)
        store.write(store.lead(RECORD.id, me, ttl_ms=60_000), [*STORY.transitions, *STORY.notes, *looks()])
    picture = tmp_path / "run.svg"
    show("3f2a", plot=True, svg=picture)
    drawn = capsys.readouterr()
    assert "start-post-copy" in drawn.out
    assert "\x1b" not in drawn.out  # no terminal, no colour
    assert str(picture) in drawn.err
    assert picture.read_text(encoding="utf-8").startswith("<svg")
    with pytest.raises(UsageError, match="cannot be written"):
        show("3f2a", svg=tmp_path / "nowhere" / "run.svg")
