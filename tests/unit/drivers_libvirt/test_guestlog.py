"""Which lines of a guest's log are of this attempt."""

from __future__ import annotations

from segue.drivers.libvirt.guestlog import since

LOG = """\
2026-11-25 23:26:29.093+0000: starting up libvirt version: 9.0.0, hostname: beta
-name guest=web1
2026-11-25T23:26:30.525225Z qemu-system-x86_64: of an earlier attempt
2026-11-25 23:29:16.118+0000: starting up libvirt version: 9.0.0, hostname: beta
a line without a time
2026-11-25T23:29:20.513400Z qemu-system-x86_64: Read section footer failed: -5
""".splitlines()
BEGAN = 1795649350.0  # 23:29:10


def test_only_lines_written_since_then_are_kept_and_those_without_a_time_go_with_the_line_before():
    assert since(LOG, BEGAN) == LOG[3:]


def test_a_log_of_earlier_lives_alone_tells_nothing():
    assert since(LOG[:3], BEGAN) == []
    assert since([], BEGAN) == []
