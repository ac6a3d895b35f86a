"""Bytes, rates and durations: what people write is read, what is written reads back, and garbage is a UsageError."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from segue import units
from segue.errors import UsageError
from segue.units import GIB, KIB, MIB

PARSERS = (units.parse_bytes, units.parse_rate, lambda text: units.parse_duration_ms(text, bare="s"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("256MiB", 256 * MIB),
        ("256", 256 * MIB),
        ("1.5G", 3 * GIB // 2),
        ("2 gib", 2 * GIB),
        (" 300k ", 300 * KIB),
        ("1kB", 1000),
        ("1MB", 10**6),
        ("1GB", 10**9),
        ("17b", 17),
        ("0", 0),
    ],
)
def test_sizes_are_read_as_memory_people_write_them(text, expected):
    assert units.parse_bytes(text) == expected


def test_a_bare_size_takes_the_unit_the_caller_names():
    assert units.parse_bytes("4", bare="gib") == 4 * GIB
    assert units.parse_bytes("4", bare="b") == 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("100MiB/s", 100 * MIB),
        ("100", 100 * MIB),
        ("300mbit", 37_500_000),
        ("1gbit", 125_000_000),
        ("1 Gbit/s", 125_000_000),
        ("64kbit", 8_000),
        ("8bit", 1),
        ("5 MB/s", 5_000_000),
        ("100MiB/s ", 100 * MIB),
    ],
)
def test_rates_are_read_in_bytes_and_in_bits(text, expected):
    assert units.parse_rate(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("300ms", 300), ("90s", 90_000), ("10min", 600_000), ("10m", 600_000), ("1.5h", 5_400_000), ("0.5 s", 500), ("0ms", 0)],
)
def test_durations_are_read(text, expected):
    assert units.parse_duration_ms(text, bare="ms") == expected


def test_a_bare_duration_takes_the_unit_the_caller_names():
    assert units.parse_duration_ms("30", bare="s") == 30_000
    assert units.parse_duration_ms("30", bare="ms") == 30


@pytest.mark.parametrize("text", ["", " ", "MiB", "-1MiB", "1,5G", "12 parsecs", "1e9", "0x10", "nan", "inf", "1 2", "9" * 400])
def test_nonsense_is_a_usage_error_that_quotes_it(text):
    for parse in PARSERS:
        with pytest.raises(UsageError) as caught:
            parse(text)
        assert repr(text) in caught.value.message


@pytest.mark.parametrize("text", ["0", "0mbit", "0.001bit"])
def test_a_rate_of_nothing_is_refused(text):
    with pytest.raises(UsageError, match="more than zero"):
        units.parse_rate(text)


@given(st.text(max_size=30))
@example("9" * 400)
@example("1" * 400 + "gib")
def test_whatever_is_typed_is_a_number_or_a_usage_error(text):
    for parse in PARSERS:
        try:
            assert parse(text) >= 0
        except UsageError:
            continue


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (KIB, "1 KiB"),
        (round(17.4 * MIB), "17.4 MiB"),
        (2 * GIB, "2.00 GiB"),
        (MIB - 1, "1.0 MiB"),
        (GIB - 1, "1.00 GiB"),
    ],
)
def test_bytes_are_written_in_the_largest_unit_that_fits(count, expected):
    assert units.format_bytes(count) == expected


@pytest.mark.parametrize(
    ("ms", "expected"),
    [
        (0, "0 ms"),
        (57, "57 ms"),
        (999, "999 ms"),
        (1000, "1.00 s"),
        (4_240, "4.24 s"),
        (59_994, "59.99 s"),
        (59_999, "1 min 00 s"),
        (187_000, "3 min 07 s"),
        (3_599_700, "1 h 00 min"),
        (7_500_000, "2 h 05 min"),
    ],
)
def test_durations_are_written_for_people(ms, expected):
    assert units.format_duration_ms(ms) == expected


@given(st.integers(min_value=0, max_value=1 << 50))
def test_a_size_that_was_written_reads_back_within_its_rounding(count):
    assert abs(units.parse_bytes(units.format_bytes(count)) - count) <= max(0.06 * MIB if count < GIB else 0.006 * GIB, KIB)


@given(st.integers(min_value=1, max_value=1 << 40))
def test_a_rate_that_was_written_reads_back_within_its_rounding(bps):
    assert units.parse_rate(units.format_rate(bps)) == units.parse_bytes(units.format_bytes(bps))


@given(st.integers(min_value=0, max_value=59_994))
def test_a_duration_under_a_minute_reads_back_within_its_rounding(ms):
    assert abs(units.parse_duration_ms(units.format_duration_ms(ms), bare="ms") - ms) <= 5


def test_overrides_are_parts_and_values():
    assert units.parse_overrides(["disk.vda=/mnt/a=b.img", "vnc=:7"]) == {"disk.vda": "/mnt/a=b.img", "vnc": ":7"}
    for bad in (["vnc"], ["=x"], ["vnc="], ["vnc=:1", "vnc=:2"]):
        with pytest.raises(UsageError, match="sets nothing"):
            units.parse_overrides(bad)


def test_ports_are_one_or_a_range():
    assert (units.parse_ports("49152-49215"), units.parse_ports("22")) == ((49152, 49215), (22, 22))
    for bad in ("", "0", "9-8", "a-b", "1-70000", "-1"):
        with pytest.raises(UsageError, match="no range of ports"):
            units.parse_ports(bad)
