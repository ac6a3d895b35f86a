"""Themes CPU and machine, and memory: facts → findings."""

from __future__ import annotations

from dataclasses import replace

import pytest

from segue.core.forecast import forecast
from segue.core.measured import Path as Way
from segue.core.measured import Range, Touched, Window
from segue.core.measured import Seen as Watched
from segue.core.model import GuestState
from segue.core.preflight import judge
from segue.core.preflight.facts import Facts, HostMemory, Offer, Parts, Standing, Unseen
from segue.core.preflight.findings import Severity
from tests.unit.preflight.facts import CLEAN, OFFER, PARTS, said

B, W, N, U = Severity.BLOCKER, Severity.WARNING, Severity.NOTE, Severity.UNCHECKED
GIB = 1 << 30


def offering(**changes: object) -> Facts:
    return replace(CLEAN, offer=replace(OFFER, **changes))  # type: ignore[arg-type]


def made_of(offer: Offer = OFFER, **changes: object) -> Facts:
    return replace(CLEAN, parts=replace(PARTS, **changes), offer=offer)  # type: ignore[arg-type]


def cpu(**changes: object) -> Parts:
    return replace(PARTS, cpu=replace(PARTS.cpu, **changes))  # type: ignore[arg-type]


def memory(**changes: object) -> Parts:
    return replace(PARTS, memory=replace(PARTS.memory, **changes))  # type: ignore[arg-type]


def emulated(*version: int, total_bytes: int = GIB) -> Facts:
    """Under QEMU's own emulation, with so much memory."""
    parts = replace(PARTS, accelerator="tcg", qemu=version, memory=replace(PARTS.memory, total_bytes=total_bytes))
    return replace(CLEAN, parts=parts, offer=replace(OFFER, qemu=(10, 0, 0)))


def busy(percent: int, facts: Facts) -> Facts:
    """The same, of a guest that uses so much of one CPU's time."""
    return replace(facts, standing=Standing(state=GuestState.RUNNING, busy_percent=percent))


def promising(downtime_ms: int, facts: Facts) -> Facts:
    """The same, with so much standstill allowed."""
    return replace(facts, spec=replace(facts.spec, limits=replace(facts.spec.limits, max_downtime_ms=downtime_ms)))


ALIKE = replace(OFFER, host_cpu="Intel Skylake microcode 7")


@pytest.mark.parametrize(
    ("facts", "found"),
    [
        (offering(lacking=("avx2", "avx512f")), [("cpu-features", B)]),
        (offering(lacking=None), [("cpu-features", U)]),
        (replace(CLEAN, parts=cpu(mode="host-passthrough")), [("cpu-passthrough", W)]),
        (
            replace(CLEAN, parts=replace(cpu(mode="host-passthrough"), host_cpu="Intel Skylake microcode 7"), offer=ALIKE),
            [("cpu-passthrough", N)],
        ),
        (replace(CLEAN, parts=cpu(features=frozenset({"invtsc"}))), [("tsc", B)]),
        (replace(CLEAN, parts=cpu(features=frozenset({"invtsc"}), tsc_fixed=True)), []),
        (made_of(machine="pc-q35-9.9"), [("machine-type", B)]),
        (offering(qemu=(6, 2, 0)), [("qemu-older", W)]),
        (offering(qemu=(10, 0, 0)), []),
        (offering(qemu=(7, 2, 1)), []),
        (offering(accelerators=frozenset({"tcg"})), [("accelerator", B)]),
        (emulated(7, 2), [("emulation", W)]),
        (emulated(8, 2, 10), [("emulation", W)]),
        (emulated(9, 0), []),
        (emulated(), []),
        (emulated(7, 2, total_bytes=GIB - (8 << 10)), []),
        (emulated(7, 2, total_bytes=3 * GIB // 2 - (8 << 10)), [("first-look", W)]),
        (emulated(10, 0, total_bytes=3 * GIB // 2 - (8 << 10)), [("first-look", W)]),
        (promising(400, emulated(10, 0, total_bytes=3 * GIB // 2 - (8 << 10))), []),
        (busy(100, emulated(10, 0, total_bytes=GIB // 4 - (8 << 10))), [("first-look", W)]),
        (busy(40, emulated(10, 0, total_bytes=GIB // 4 - (8 << 10))), []),
        (busy(100, emulated(10, 0, total_bytes=GIB // 16 - (8 << 10))), []),
        (busy(100, emulated(10, 0)), []),
        (replace(CLEAN, parts=cpu(pinned=frozenset({1, 9}))), [("cpu-pinning", B)]),
        (offering(memory=HostMemory(available_bytes=GIB // 2)), [("memory", B)]),
        (offering(memory=HostMemory(available_bytes=GIB // 2, swap_bytes=GIB)), [("memory", W)]),
        (
            replace(CLEAN, parts=memory(locked=True), offer=replace(OFFER, memory=HostMemory(available_bytes=5, swap_bytes=GIB))),
            [("memory", B)],
        ),
        (replace(CLEAN, parts=memory(page_bytes=2 << 20)), []),
        (replace(CLEAN, parts=memory(page_bytes=GIB)), [("huge-pages", B)]),
        (replace(CLEAN, parts=memory(nodes=frozenset({0}))), []),
        (replace(CLEAN, parts=memory(nodes=frozenset({1}))), [("numa", B)]),
        (replace(CLEAN, parts=memory(nodes=frozenset({0}), total_bytes=2 * GIB + 1)), [("memory", B), ("numa", B)]),
    ],
)
def test_what_is_found(facts: Facts, found: list[tuple[str, Severity]]) -> None:
    assert said(facts) == found


def test_a_busy_guest_is_told_what_its_clients_wait_for_by_what_it_writes() -> None:
    [one] = judge(busy(100, emulated(10, 0, total_bytes=(224 << 20) + (8 << 10))))
    assert "wait for about 55 ms when it begins to move, and for about 196 ms more for each 16 MiB" in one.sentence


def test_a_busy_guest_that_was_watched_is_told_one_wait() -> None:
    facts = busy(100, emulated(10, 0, total_bytes=(224 << 20) + (8 << 10)))
    exactly = Range(low=96 << 20, likely=96 << 20, high=96 << 20)
    windows = (Window(ms=2000, dirtied_bytes=33 << 20), Window(ms=1000, dirtied_bytes=32 << 20))
    watched = Watched(touched=Touched(bytes=exactly, how="said"), windows=windows, path=Way(bps=exactly, how="said"))
    [one] = [one for one in judge(replace(facts, expected=forecast(watched, facts.spec.limits))) if one.code == "first-look"]
    assert "wait for about 447 ms when it begins to move; 300 ms" in one.sentence


def test_missing_features_are_named_with_a_cpu_that_both_can_give() -> None:
    [one] = judge(offering(lacking=("avx2", "erms"), baseline="-cpu Skylake-Server,-avx2,-erms"))
    assert "avx2, erms" in one.sentence
    assert "-cpu Skylake-Server,-avx2,-erms" in one.fix


def test_an_emulator_that_does_not_start_leaves_the_rest_unchecked() -> None:
    found = said(offering(trouble="qemu-system-x86_64: not found"))
    assert found[0] == ("emulator", B)
    assert ("machine-type", U) in found


@pytest.mark.parametrize(
    "trouble",
    [
        "/usr/bin/qemu: invalid accelerator kvm",
        "unsupported configuration: Emulator '/usr/bin/qemu' does not support virt type 'kvm'",
    ],
)
def test_an_emulator_that_was_built_for_another_accelerator_is_said_to_be_that(trouble: str) -> None:
    found = said(offering(trouble=trouble))
    assert ("accelerator", B) in found
    assert ("accelerator", U) not in found
    assert ("emulator", B) not in found


def test_a_destination_that_does_not_say_is_unchecked() -> None:
    found = said(replace(CLEAN, offer=Unseen(host="beta", why="no answer")))
    assert found
    assert {severity for _, severity in found} == {U}
