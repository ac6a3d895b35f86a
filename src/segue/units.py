"""Bytes, rates, durations, ports and overrides: the only place that parses, formats and converts them.

Inside Segue a size is an ``int`` of bytes, a rate an ``int`` of bytes per second, a duration an ``int`` of
milliseconds; the names say so (``*_bytes``, ``*_bps`` for bytes per second, ``*_ms``). People write and read other units,
and they are turned into these at the edge, here.

What may live here: pure functions on numbers and short strings. No I/O.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from segue.errors import UsageError

KIB: Final = 1 << 10
MIB: Final = 1 << 20
GIB: Final = 1 << 30

# A network's "Mbit" is decimal, memory's "MiB" is binary: both are used as their own people use them.
_SIZE: Final = {
    "": 1,
    "b": 1,
    "k": KIB,
    "kib": KIB,
    "m": MIB,
    "mib": MIB,
    "g": GIB,
    "gib": GIB,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
}
_BIT_RATE: Final = {"bit": 1, "kbit": 10**3, "mbit": 10**6, "gbit": 10**9}
_DURATION_MS: Final = {"ms": 1, "s": 1000, "m": 60_000, "min": 60_000, "h": 3_600_000}
# Fifteen digits are an exact float, and more than anybody has.
_AMOUNT: Final = re.compile(r"\s*([0-9]{1,15}(?:\.[0-9]{1,15})?)\s*([a-z]*)\s*")
_AMOUNT_PER_SECOND: Final = re.compile(_AMOUNT.pattern + r"(?:/s\s*)?")


def _split(pattern: re.Pattern[str], text: str, what: str, example: str) -> tuple[float, str]:
    match = pattern.fullmatch(text.lower())
    if match is None:
        raise UsageError(f"{text!r} is not {what}.", hint=f"Write it like {example}.")
    return float(match[1]), match[2]


def parse_bytes(text: str, *, bare: str = "mib") -> int:
    """Read a size such as ``256MiB``, ``1.5G`` or ``300`` into bytes.

    Args:
        text: a number with an optional unit (k, KiB, m, MiB, g, GiB binary; kB, MB, GB decimal).
        bare: the unit of a number that has none.

    Raises:
        UsageError: not a size.
    """
    number, unit = _split(_AMOUNT, text, "a size", "256MiB or 2GiB")
    if (unit or bare) not in _SIZE:
        raise UsageError(f"{text!r} is not a size: the unit {unit!r} is unknown.", hint="Use MiB or GiB.")
    return round(number * _SIZE[unit or bare])


def parse_rate(text: str) -> int:
    """Read a rate such as ``100MiB/s``, ``300mbit`` or ``1gbit`` into bytes per second. A bare number is MiB/s, as in virsh.

    Raises:
        UsageError: not a rate, or a rate of zero.
    """
    number, unit = _split(_AMOUNT_PER_SECOND, text, "a rate", "100MiB/s or 1gbit")
    unit = unit or "mib"
    if unit in _BIT_RATE:
        rate = round(number * _BIT_RATE[unit] / 8)
    elif unit in _SIZE:
        rate = round(number * _SIZE[unit])
    else:
        raise UsageError(f"{text!r} is not a rate: the unit {unit!r} is unknown.", hint="Use MiB/s, mbit or gbit.")
    if rate <= 0:
        raise UsageError(f"{text!r} is not a rate: it must be more than zero.")
    return rate


def parse_duration_ms(text: str, *, bare: str) -> int:
    """Read a duration such as ``300ms``, ``90s`` or ``10min`` into milliseconds.

    Args:
        text: a number with an optional unit (ms, s, m or min, h).
        bare: the unit of a number that has none.

    Raises:
        UsageError: not a duration.
    """
    number, unit = _split(_AMOUNT, text, "a duration", "300ms, 90s or 10min")
    if (unit or bare) not in _DURATION_MS:
        raise UsageError(f"{text!r} is not a duration: the unit {unit!r} is unknown.", hint="Use ms, s, min or h.")
    return round(number * _DURATION_MS[unit or bare])


MAX_DOWNTIME_MS: Final = 2_000_000
"""QEMU refuses more (migration/options.c, MAX_MIGRATE_DOWNTIME)."""


def parse_downtime_ms(text: str) -> int:
    """Read how long a guest may stand still, a bare number in ms.

    Raises:
        UsageError: not a duration, or not one that QEMU takes.
    """
    ms = parse_duration_ms(text, bare="ms")
    if not 1 <= ms <= MAX_DOWNTIME_MS:
        raise UsageError(f"{text!r} is no downtime.", hint="Give something between 1 ms and 2000 s, which is QEMU's own bound.")
    return ms


def parse_percent(text: str) -> int:
    """Read a share such as ``30%`` or ``30`` into whole percent.

    Raises:
        UsageError: not a share from 1 to 99 percent.
    """
    number = text.strip().removesuffix("%").strip()
    if not number.isascii() or not number.isdigit() or not 1 <= int(number[:4]) <= 99:
        raise UsageError(f"{text!r} is no share.", hint="Write it like 30%, from 1% to 99%.")
    return int(number)


def format_bytes(count: int) -> str:
    """Write bytes for a person: ``0 B``, ``17.4 MiB``, ``2.00 GiB``."""
    for unit, factor, digits in (("B", 1, 0), ("KiB", KIB, 0), ("MiB", MIB, 1)):
        written = f"{count / factor:.{digits}f}"
        if float(written) < 1024:
            return f"{written} {unit}"
    return f"{count / GIB:.2f} GiB"


def format_rate(bps: int) -> str:
    """Write bytes per second for a person: ``112.4 MiB/s``."""
    return f"{format_bytes(bps)}/s"


def format_duration_ms(ms: int) -> str:
    """Write milliseconds for a person: ``57 ms``, ``4.24 s``, ``3 min 07 s``, ``2 h 05 min``."""
    if ms < 1000:
        return f"{ms} ms"
    if ms < 59_995:  # what is above would be written as 60.00 s
        return f"{ms / 1000:.2f} s"
    minutes, seconds = divmod(round(ms / 1000), 60)
    if minutes < 60:
        return f"{minutes} min {seconds:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def parse_ports(text: str) -> tuple[int, int]:
    """Read ``49152-49215``, or one port, into the first and the last.

    Raises:
        UsageError: these are no ports.
    """
    first, _, last = text.partition("-")
    try:
        ports = int(first), int(last or first)
    except ValueError:
        ports = 0, 0
    if not 0 < ports[0] <= ports[1] < 1 << 16:
        raise UsageError(f"{text!r} is no range of ports.", hint="Write it like 49152-49215, or one port.")
    return ports


def parse_overrides(texts: Iterable[str]) -> dict[str, str]:
    """Read ``disk.vda=/mnt/vda.img`` and the like.

    Raises:
        UsageError: one has no part or no value, or a part comes twice.
    """
    overrides: dict[str, str] = {}
    for text in texts:
        part, _, value = text.partition("=")
        if not part or not value or part in overrides:
            raise UsageError(f"{text!r} sets nothing, or what is set already.", hint="Write it like disk.vda=/mnt/vda.img.")
        overrides[part] = value
    return overrides
