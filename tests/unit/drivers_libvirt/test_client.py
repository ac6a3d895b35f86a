"""The process that makes libvirt's call where post-copy is allowed, with libvirt's own driver for tests in the place of hosts."""

from __future__ import annotations

import libvirt
import pytest

from segue.drivers.libvirt import runtime
from segue.drivers.libvirt.client import Client
from segue.errors import HypervisorError

pytestmark = pytest.mark.timeout(60)
NOWHERE = "test:///default"


def call(guest: str) -> Client:
    return Client("alpha", source=NOWHERE, destination=NOWHERE, guest=guest, parameters={}, flags=libvirt.VIR_MIGRATE_LIVE)


def test_what_libvirt_says_to_that_process_is_said_as_if_we_had_been_told() -> None:
    with pytest.raises(HypervisorError) as told:
        call("nobody").result()
    connection = runtime.opened(NOWHERE)
    with pytest.raises(libvirt.libvirtError) as said:
        connection.lookupByName("nobody")
    here = runtime.wrapped("alpha", said.value)
    assert (told.value.message, told.value.number, told.value.area) == (here.message, here.number, here.area)


def test_a_call_that_has_returned_when_post_copy_is_about_to_be_asked_for_is_no_error() -> None:
    made = call("nobody")
    with pytest.raises(HypervisorError):
        made.result()
    made.stay()
    made.release()
