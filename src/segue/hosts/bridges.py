"""Bytes carried between two connections, both ways. What may live here: `Bridges`, and the streams that it joins."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from segue.errors import SegueError
from segue.hosts.shell import Target

if TYPE_CHECKING:
    import asyncssh

_CHUNK: Final = 1 << 18


@dataclass(frozen=True, slots=True)
class Stream:
    """Both directions of one connection."""

    reader: asyncio.StreamReader | asyncssh.SSHReader[bytes]
    writer: asyncio.StreamWriter | asyncssh.SSHWriter[bytes]


class Bridges:
    """The pairs of connections that are joined. A pair ends with either of its two, all of them with `aclose`."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    async def socket_of(self, far: Stream) -> socket.socket:
        """A connected, non-blocking socket that is joined to that connection. The caller closes it."""
        near, ours = socket.socketpair()
        near.setblocking(False)
        self._start(_join(Stream(*await asyncio.open_connection(sock=ours)), far))
        return near

    def to_target(self, near: Stream, target: Target) -> None:
        """Join that connection to the one that `target` opens; where it opens none, the connection is closed."""
        self._start(_join_target(near, target))

    def _start(self, joined: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(joined)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def aclose(self) -> None:
        """End all of them. May be repeated."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _join_target(near: Stream, target: Target) -> None:
    try:
        sock = await target()
    except SegueError:  # whoever connected sees it closed, and says so
        near.writer.close()
        return
    await _join(near, Stream(*await asyncio.open_connection(sock=sock)))


async def _join(one: Stream, other: Stream) -> None:
    """Carry bytes both ways until either end is closed; then both are."""
    ways = [asyncio.create_task(_carry(one, other)), asyncio.create_task(_carry(other, one))]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for stream in (one, other):
            stream.writer.close()
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)


async def _carry(source: Stream, destination: Stream) -> None:
    while chunk := await source.reader.read(_CHUNK):
        destination.writer.write(chunk)
        await destination.writer.drain()
