"""The other end of a monitor, for tests: sends lines, keeps what comes, and knows nothing of Segue or of its QMP library."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any, Self

Json = dict[str, Any]

DEADLINE_S = 20.0


class Wire:
    """One connection to a monitor's socket.

    Args:
        reader, writer: connected.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.events: list[Json] = []

    @classmethod
    async def open(cls, path: str) -> Self:
        """Connect; between bind and listen a socket is there and refuses."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                with contextlib.suppress(ConnectionRefusedError):
                    return cls(*await asyncio.open_unix_connection(path, limit=1 << 24))
                await asyncio.sleep(0.01)

    async def receive(self) -> Json | None:
        """The next line; none when the other end has closed."""
        async with asyncio.timeout(DEADLINE_S):
            line = await self._reader.readline()
        return json.loads(line) if line else None

    async def execute(self, command: str, arguments: Json | None = None) -> Json | None:
        """The answer, events that came before it kept aside; none when the other end closed before."""
        sent = {"execute": command, "id": command, **({"arguments": arguments} if arguments is not None else {})}
        self._writer.write(json.dumps(sent).encode() + b"\n")
        while (got := await self.receive()) is not None:
            if "event" not in got:
                return got
            self.events.append(got)
        return None

    async def until_closed(self) -> None:
        """Keep what still comes."""
        while (got := await self.receive()) is not None:
            self.events.append(got)

    async def aclose(self) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()
