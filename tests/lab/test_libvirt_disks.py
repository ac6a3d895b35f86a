"""Disks of libvirt's guests that only one host has: no record is lost, what is made is taken away, nothing is written over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from segue.lab import Lab
from segue.lab.guests import GuestSpec, LabGuest, local_disk
from tests.lab.conftest import SEGUE
from tests.lab.test_configuration import virsh
from tests.lab.test_disks import NAME, files, path, records
from tests.lab.test_moves import Ended, homes, segue_migrate

pytestmark = pytest.mark.lab


def moved(lab: Lab, there: str, *words: str) -> Ended:
    return asyncio.run(segue_migrate(lab, NAME, there, "--copy-storage", *words))


@pytest.mark.timeout(240)
def test_a_chain_goes_there_whole_and_comes_back_as_one_file(lab: Lab, start_guest: Callable[[GuestSpec], LabGuest]) -> None:
    start_guest(GuestSpec(name=NAME, host="alpha", kind="libvirt", local="overlay"))
    base = f"{local_disk(NAME)}.base"

    def there() -> None:
        ended = moved(lab, "beta", "inc", "--control", "p2p", "--copy-storage-synchronous-writes")
        assert ended.status == 0, ended.stderr

    assert records(lab, there).clean
    assert f"<source file='{base}'" in virsh(lab, "beta", "dumpxml", NAME)
    assert not [name for name in files(lab, "beta") if "segue" in name]
    assert "segue" not in virsh(lab, "beta", "pool-list", "--all")

    taken = moved(lab, "alpha", "all")
    assert (taken.status, homes(lab, NAME)) == (1, ["beta"]), taken.stderr
    assert "has a file" in taken.stderr
    path(lab, "alpha").unlink()

    words = [SEGUE, "migrate", NAME, "alpha", "--copy-storage", "all", "--bandwidth", "8MiB/s"]
    killed = asyncio.run(lab.run("admin", ["env", "SEGUE_FAILPOINT=start.acted=kill", *words], check=False))
    assert killed.status == -9, killed.stderr
    assert any("segue" in name for name in files(lab, "alpha"))
    recovered = asyncio.run(lab.run("admin", [SEGUE, "recover"], check=False))
    assert (homes(lab, NAME), path(lab, "alpha").exists()) == (["beta"], False), recovered.stderr

    ended = moved(lab, "alpha", "all", "--copy-disk", "vda", "--disks-port", "49999")
    assert ended.status == 0, ended.stderr
    assert "<source file=" in virsh(lab, "alpha", "dumpxml", NAME)
    assert base not in virsh(lab, "alpha", "dumpxml", NAME)
