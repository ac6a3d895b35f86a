"""What becomes of a guest's definition, judged by plain virsh."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest

from segue.lab import Lab
from segue.lab.guests import GuestSpec, LabGuest
from tests.lab.test_moves import segue_migrate

pytestmark = pytest.mark.lab

Start = Callable[[GuestSpec], LabGuest]
NAME = "kept"
# (persistent, options) → (defined on the source, persistent on the destination) afterwards.
CASES: list[tuple[bool, Sequence[str], bool, bool]] = [
    (True, [], False, True),
    (True, ["--keep-source"], True, True),
    (True, ["--no-persist"], True, False),
    (True, ["--no-persist", "--undefine-source"], False, False),
    (False, [], False, False),
    (False, ["--persist"], False, True),
]


def virsh(lab: Lab, host: str, *words: str) -> str:
    done = asyncio.run(lab.run(host, ["virsh", "-q", "-c", "qemu:///system", *words], check=False))
    return done.stdout


@pytest.mark.parametrize("control", ["direct", "p2p"])
@pytest.mark.parametrize(("persistent", "options", "stays", "arrives"), CASES)
def test_where_it_is_defined_afterwards(
    lab: Lab, start_guest: Start, control: str, persistent: bool, options: Sequence[str], stays: bool, arrives: bool
) -> None:
    start_guest(GuestSpec(name=NAME, host="alpha", kind="libvirt", persistent=persistent))
    try:
        ended = asyncio.run(segue_migrate(lab, NAME, "beta", "--control", control, *options))
        assert ended.status == 0, ended.stderr
        assert (NAME in virsh(lab, "alpha", "list", "--all", "--name").split()) is stays
        assert NAME in virsh(lab, "beta", "list", "--name").split()
        assert (NAME in virsh(lab, "beta", "list", "--persistent", "--all", "--name").split()) is arrives
    finally:
        if stays:
            virsh(lab, "alpha", "undefine", NAME)


def test_a_definition_that_was_kept_does_not_stop_it_from_coming_back(lab: Lab, start_guest: Start) -> None:
    start_guest(GuestSpec(name=NAME, host="alpha", kind="libvirt"))
    for there in ("beta", "alpha"):
        ended = asyncio.run(segue_migrate(lab, NAME, there, "--keep-source"))
        assert ended.status == 0, ended.stderr
    virsh(lab, "beta", "undefine", NAME)
