"""A SPICE client's main channel: enough of the protocol to be told where the guest's display has gone.

The figures are those of spice-protocol (spice/protocol.h, spice/enums.h). Without the capability to choose an authentication the
server expects the password, here none, encrypted with the key that it shows.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from typing import Final

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.serialization import load_der_public_key

_MAGIC: Final = b"REDQ"
_VERSION: Final = (2, 2)
_MAIN: Final = 1
_MINI_HEADER: Final = 1 << 3
_SEMI_SEAMLESS_MIGRATE: Final = 1 << 0
_KEY_BYTES: Final = 162

_SET_ACK, _PING, _MIGRATE_BEGIN, _SWITCH_HOST = 3, 4, 101, 111
_ACK_SYNC, _PONG, _MIGRATE_CONNECT_ERROR = 1, 3, 103


class SpiceClient:
    """Connected to a display."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._heard = asyncio.ensure_future(self._listen())  # a server goes on only when it is answered

    @classmethod
    async def connect(cls, host: str, port: int) -> SpiceClient:
        """Open a main channel.

        Raises:
            OSError: nobody listens there.
            AssertionError: who listens there lets nobody in.
        """
        reader, writer = await asyncio.open_connection(host, port)
        body = struct.pack("<IBBIIIII", 0, _MAIN, 0, 1, 1, 18, _MINI_HEADER, _SEMI_SEAMLESS_MIGRATE)
        writer.write(struct.pack("<4sIII", _MAGIC, *_VERSION, len(body)) + body)
        _, _, _, size = struct.unpack("<4sIII", await reader.readexactly(16))
        reply = await reader.readexactly(size)
        key = load_der_public_key(reply[4 : 4 + _KEY_BYTES])
        assert isinstance(key, rsa.RSAPublicKey)
        sha1 = SHA1()  # noqa: S303  # the protocol's
        writer.write(key.encrypt(b"\0", padding.OAEP(padding.MGF1(sha1), sha1, None)))
        assert await reader.readexactly(4) == bytes(4)
        return cls(reader, writer)

    async def sent_on(self) -> tuple[tuple[str, int], tuple[str, int]]:
        """Where it is told to connect to when a migration begins, which it says that it cannot, and where when it has ended."""
        return await self._heard

    async def _listen(self) -> tuple[tuple[str, int], tuple[str, int]]:
        begun = ("", 0)
        while True:
            kind, size = struct.unpack("<HI", await self._reader.readexactly(6))
            body = await self._reader.readexactly(size)
            if kind == _SET_ACK:
                self._say(_ACK_SYNC, body[:4])
            elif kind == _PING:
                self._say(_PONG, body[:12])
            elif kind == _MIGRATE_BEGIN:
                begun = _destination(body)
                self._say(_MIGRATE_CONNECT_ERROR, b"")
            elif kind == _SWITCH_HOST:
                self._writer.close()  # the server, and libvirt with it, waits for whoever stays, 10 s long
                return begun, _destination(body)

    def _say(self, kind: int, body: bytes) -> None:
        self._writer.write(struct.pack("<HI", kind, len(body)) + body)

    async def aclose(self) -> None:
        """Hang up."""
        self._heard.cancel()
        self._writer.close()
        await asyncio.wait([self._heard])
        with contextlib.suppress(OSError):  # of a QEMU that is gone
            await self._writer.wait_closed()


def _destination(body: bytes) -> tuple[str, int]:
    port, _, size, begins = struct.unpack_from("<HHII", body)
    return body[begins : begins + size].rstrip(b"\0").decode(), port
