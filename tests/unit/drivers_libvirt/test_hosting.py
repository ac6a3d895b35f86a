"""What a libvirt host can spare, by libvirt's own test driver."""

from __future__ import annotations

import libvirt
import pytest

from segue.drivers.libvirt import hosting, runtime


def test_a_guest_whose_memory_is_limited_has_nothing_to_spare() -> None:
    domain = runtime.opened("test:///default").lookupByName("test")
    # The host is asked, and that driver has no word for it.
    with pytest.raises(libvirt.libvirtError, match="virNodeGetMemoryStats"):
        hosting.spare_bytes(domain)
    domain.setMemoryParameters({"hard_limit": 400_000})
    assert hosting.spare_bytes(domain) == 0
