"""How a guest's memory travels from one QEMU to the other: over TCP, encrypted or not, or through ssh.

A channel is opened in two halves, first where it is received, then where it is sent from, and closed when the migration is
over. All that it makes on a host has a name made of the migration's id, so that another process can close it too. What may live
here: QMP commands and files that have to do with the way, none that moves or runs a guest.
"""

from __future__ import annotations

import asyncio
import contextlib
import posixpath
import secrets
import socket
from contextlib import AsyncExitStack
from typing import Final
from urllib.parse import urlsplit

from segue.core import argv
from segue.core.model import HostAddress, MigrationSpec, Transport
from segue.core.pki import DH_PARAMETERS, FFDHE2048
from segue.drivers.qemu import setup
from segue.drivers.qemu.hypervisor import QemuHypervisor
from segue.drivers.qemu.processes import Process
from segue.drivers.qemu.session import Session, absolute
from segue.errors import HypervisorError
from segue.hosts.shell import checked

FILES_DEADLINE_S: Final = 10.0
CREDENTIALS: Final = "segue-tls"
"""The id of the object in both QEMUs."""
CERTIFICATES: Final = "/etc/pki/qemu"
"""Where libvirt and QEMU's packages look for them by default (libvirt, src/qemu/qemu.conf, default_tls_x509_cert_dir)."""
DYNAMIC_PORTS: Final = (49152, 65535)
"""For anybody's use (RFC 6335, 6)."""
PORTS_TRIED: Final = 5
_KEY_BYTES: Final = 32
_ENCRYPTED: Final = (Transport.TLS, Transport.TLS_PSK)
_WITH_FILES: Final = (Transport.TLS_PSK, Transport.TUNNELLED)


class Channel:
    """The way of one migration.

    Args:
        spec: of the migration.
        source, destination: both hosts.
        directory: where its files may be, the same on both hosts; it is there already.
        user: who runs QEMU, and must reach them; empty for the user that we are there.
    """

    def __init__(
        self, spec: MigrationSpec, source: QemuHypervisor, destination: QemuHypervisor, directory: str, *, user: str
    ) -> None:
        self._spec = spec
        self._source = source
        self._destination = destination
        self._files = posixpath.join(directory, f"segue-{spec.id}")
        self._user = user
        self._held = AsyncExitStack()
        self._uri = ""
        self._dug = False

    async def receive(self, there: Session, address: str) -> str:
        """Make the destination listen; where it does, for people.

        Args:
            there: the destination.
            address: an IP address of it; not looked at where no port is opened.

        Raises:
            HypervisorError, CommandFailed: it cannot; with its words. What was made is there until `close`.
        """
        if self._spec.transport in _WITH_FILES:
            await self._make_files()
        if self._spec.transport in _ENCRYPTED:
            await self._add_credentials(there, "server")
        await there.execute("migrate-set-parameters", self._parameters())
        return await self._listen(there, address)

    async def receive_again(self, there: Session, address: str) -> str:
        """Make a destination whose post-copy lost its connection listen again; the URI that the source is to resume at.

        Its main loop may stand still, waiting for a page of the guest, so nothing can be asked there but out of band, and not
        on which port it listens: so that is chosen here, and another one when it is taken.

        Raises:
            HypervisorError: it is not such a one, or cannot listen.
        """
        if self._spec.transport is Transport.TUNNELLED:
            await there.execute("migrate-recover", {"uri": f"unix:{self._files}/in"}, out_of_band=True)
            self._uri = f"unix:{self._files}/out"
            await self._dig()
            return self._uri
        first, last = self._destination.address.migration_ports or DYNAMIC_PORTS
        ports = [first + secrets.randbelow(last - first + 1) for _ in range(PORTS_TRIED)]
        for number, port in enumerate(ports, 1):
            self._uri = f"tcp:{setup.bracketed(address)}:{port}"
            try:
                await there.execute("migrate-recover", {"uri": self._uri}, out_of_band=True)
                break
            except HypervisorError as error:
                if number == PORTS_TRIED or "in use" not in error.raw:
                    raise
        return self._uri

    async def send(self, here: Session) -> str:
        """Make the source ready to send; the URI that it is to send to.

        Raises:
            HypervisorError: it cannot; with its words.
        """
        if self._spec.transport in _ENCRYPTED:
            with contextlib.suppress(HypervisorError):  # of an earlier migration that nobody could close
                await here.execute("object-del", {"id": CREDENTIALS})
            await self._add_credentials(here, "client")
        name = _name_of(self._destination.address) if self._spec.transport is Transport.TLS else ""
        await here.execute("migrate-set-parameters", {**self._parameters(), "tls-hostname": name})
        await self._dig()
        return self._uri

    def _parameters(self) -> dict[str, object]:
        credentials = CREDENTIALS if self._spec.transport in _ENCRYPTED else ""
        many = {"multifd-channels": self._spec.connections} if self._spec.connections > 1 else {}
        return {"tls-creds": credentials, **many, **setup.compression(self._spec)}

    def _credentials(self, endpoint: str) -> dict[str, object]:
        """The TLS credentials object (QEMU, docs/system/tls.rst)."""
        if self._spec.transport is Transport.TLS:
            return {
                "qom-type": "tls-creds-x509",
                "id": CREDENTIALS,
                "dir": CERTIFICATES,
                "endpoint": endpoint,
                "verify-peer": True,
            }
        name = {"username": "segue"} if endpoint == "client" else {}
        return {"qom-type": "tls-creds-psk", "id": CREDENTIALS, "dir": self._files, "endpoint": endpoint, **name}

    async def _add_credentials(self, session: Session, endpoint: str) -> None:
        try:
            await session.execute("object-add", self._credentials(endpoint))
        except HypervisorError as error:
            if self._spec.transport is not Transport.TLS or not self._user:
                raise
            raise HypervisorError(
                error.message,
                host=error.host,
                raw=error.raw,
                number=error.number,
                hint=f"This QEMU runs as {self._user}, who has to be allowed to read the keys in {CERTIFICATES}; "
                f"{Transport.TLS_PSK} needs none.",
            ) from error

    async def _make_files(self) -> None:
        """Make a directory for this migration on both hosts, which nobody but the user who runs QEMU can look into.

        With a key that is used once; it is in no command line. The directory is handed over last: whoever could change what is in
        it could lead astray who still writes there.
        """
        keys = f"segue:{secrets.token_hex(_KEY_BYTES)}\n".encode()

        async def make(host: QemuHypervisor) -> None:
            command = ["mkdir", "-p", "-m", "700", "--", self._files]
            checked(host.host, command, await host.shell.run(command, deadline_s=FILES_DEADLINE_S))
            made = [self._files]
            if self._spec.transport is Transport.TLS_PSK:
                for name, content in (("keys.psk", keys), (posixpath.basename(DH_PARAMETERS), FFDHE2048)):
                    made.insert(0, f"{self._files}/{name}")
                    await host.shell.write_file(made[0], content, mode=0o600, deadline_s=FILES_DEADLINE_S)
            await self._hand_over(host, *made)

        await asyncio.gather(make(self._source), make(self._destination))

    async def _hand_over(self, host: QemuHypervisor, *paths: str) -> None:
        """Let files belong to the user who runs QEMU."""
        if self._user:
            command = ["chown", "-h", "--", self._user, *paths]
            checked(host.host, command, await host.shell.run(command, deadline_s=FILES_DEADLINE_S))

    async def _listen(self, there: Session, address: str) -> str:
        host = self._destination.host
        if self._spec.transport is Transport.TUNNELLED:
            path = f"{self._files}/in"
            await there.execute("migrate-incoming", {"uri": f"unix:{path}"})
            self._uri = f"unix:{self._files}/out"
            return f"{host}, {path} by ssh"
        first, last = self._destination.address.migration_ports or (0, 0)
        upto = f",to={last}" if last > first else ""
        await there.execute("migrate-incoming", {"uri": f"tcp:{setup.bracketed(address)}:{first}{upto}"})
        listening = (await there.query("query-migrate")).get("socket-address")
        found = listening[0] if isinstance(listening, list) and listening else None
        if not isinstance(found, dict):
            raise HypervisorError(f"QEMU on {host} does not say where it listens.", host=host, raw=str(listening))
        self._uri = f"tcp:{setup.bracketed(str(found.get('host')))}:{found.get('port')}"
        return f"{host} at {address}"

    async def _dig(self) -> None:
        """Let the source's socket lead to the destination's, through this process and both ssh connections."""
        if self._spec.transport is not Transport.TUNNELLED or self._dug:
            return

        async def far_end() -> socket.socket:
            return await self._destination.shell.open_unix(f"{self._files}/in", deadline_s=FILES_DEADLINE_S)

        served = self._source.shell.serve_unix(f"{self._files}/out", far_end, deadline_s=FILES_DEADLINE_S)
        await self._held.enter_async_context(served)
        await self._hand_over(self._source, f"{self._files}/out")
        self._dug = True

    async def close(self, *sessions: Session) -> None:
        """Remove what was made on both hosts, and in those QEMUs that go on. May be repeated, by anyone.

        Raises:
            HostUnreachable, AnswerNotSeen, CommandFailed: something may be left.
        """
        await self.aclose()
        if self._spec.transport is Transport.NATIVE:
            return
        for session in sessions:
            if self._spec.transport in _ENCRYPTED:
                await session.execute("migrate-set-parameters", {"tls-creds": "", "tls-hostname": ""})
                with contextlib.suppress(HypervisorError):  # it is gone already
                    await session.execute("object-del", {"id": CREDENTIALS})
        remove = ["rm", "-rf", "--", self._files]
        for host in (self._source, self._destination):
            checked(host.host, remove, await host.shell.run(remove, deadline_s=FILES_DEADLINE_S))

    async def aclose(self) -> None:
        """Let go of what this process holds: the tunnel. May be repeated."""
        await self._held.aclose()


def of(spec: MigrationSpec, source: QemuHypervisor, destination: QemuHypervisor, process: Process) -> Channel:
    """The channel of a migration, with its files beside the monitor of either QEMU: both have it at the same path."""
    monitor = absolute(process, argv.qmp_path(process.line) or "")
    return Channel(spec, source, destination, posixpath.dirname(monitor), user=process.user)


def _name_of(address: HostAddress) -> str:
    """The name that the destination's certificate must have: the one by which it was asked for."""
    return address.migration_address or urlsplit(address.uri).hostname or ""
