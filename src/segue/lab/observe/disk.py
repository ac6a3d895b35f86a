"""Reads the guest's disk as it lies on the storage host.

What may live here: the format of a record (guest/workload.c) and its reader.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from segue.lab.observe.judge import Record

SECTOR: Final = 512
_RECORD: Final = struct.Struct("<8s8sQQII")
_MAGIC: Final = b"SEGUEREC"
_EMPTY: Final = bytes(SECTOR)
_END: Final = 1024
"""So many empty slots in a row are the end: half a megabyte, more than could be lost by any accident in a lab."""


def read(image: Path) -> list[Record]:
    """Every slot that is not empty, in order.

    Raises:
        OSError: the image cannot be read.
    """
    return list(_records(image))


def _records(image: Path) -> Iterator[Record]:
    empty = 0
    with image.open("rb") as file:
        for slot, data in enumerate(iter(lambda: file.read(SECTOR), b"")):
            if data == _EMPTY:
                empty += 1
                if empty == _END:
                    return
                continue
            empty = 0
            yield _parse(slot, data)


def _parse(slot: int, data: bytes) -> Record:
    magic, boot, seq, _, prev_crc, crc = _RECORD.unpack_from(data.ljust(_RECORD.size, b"\0"))
    valid = magic == _MAGIC and zlib.crc32(data[: _RECORD.size - 4]) == crc
    return Record(slot=slot, boot=boot.decode(errors="replace"), seq=seq, prev_crc=prev_crc, crc=crc, valid=valid)
