"""From an address to a shell on the host that it means. What may live here: reading the host out of a URI, and `reach`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from urllib.parse import unquote, urlsplit

from segue.core.model import DriverKind, HostAddress
from segue.errors import UsageError
from segue.hosts.local import LocalShell
from segue.hosts.shell import HostShell
from segue.hosts.ssh import SshShell, SshTarget


def load(addresses: Sequence[HostAddress]) -> None:
    """Load what it takes to reach them, before anybody waits for it."""
    if any(urlsplit(address.uri).scheme == "qmp+ssh" for address in addresses):
        with _no_compiler():
            import_module("asyncssh")


@contextlib.contextmanager
def _no_compiler() -> Iterator[None]:
    """Let libraries be looked for where ldconfig knows them, and nowhere else.

    asyncssh looks for two that few machines have, and for each ctypes has a compiler and a linker try a program: 20 ms and more
    of each migration, where there is one.
    """
    import ctypes.util

    tried = {name: getattr(ctypes.util, name) for name in ("_findLib_gcc", "_findLib_ld") if hasattr(ctypes.util, name)}
    try:
        for name in tried:
            setattr(ctypes.util, name, lambda _: None)
        yield
    finally:
        for name, way in tried.items():
            setattr(ctypes.util, name, way)


async def reach(address: HostAddress, *, deadline_s: float) -> HostShell:
    """A shell on the host: of this machine, or over ssh.

    Raises:
        HostUnreachable: with what happened and what to do about it.
        UsageError: the URI says something that cannot be.
    """
    target = ssh_target(address)
    if target is None:
        return LocalShell(address.name)
    return await SshShell.connect(address.name, target, deadline_s=deadline_s)


def way_in(addresses: Sequence[HostAddress]) -> HostAddress:
    """The address by which to log in to a host: that of its bare guests, else ssh to where its libvirt is.

    Raises:
        UsageError: none of them says where the host is.
    """
    for address in addresses:
        if address.driver is DriverKind.QEMU:
            return address
    [address] = addresses[:1]
    uri = urlsplit(address.uri)
    way = "qmp:///"
    if uri.netloc:
        login = (
            uri.netloc if uri.scheme.endswith("+ssh") else f"[{uri.hostname}]" if ":" in (uri.hostname or "") else uri.hostname
        )
        way = f"qmp+ssh://{login}/"
    return replace(address, uri=way, driver=DriverKind.QEMU)


def ssh_target(address: HostAddress) -> SshTarget | None:
    """Whom to log in to for a ``qmp:///`` or ``qmp+ssh://`` URI; ``None`` for this machine.

    Raises:
        UsageError: the URI says something that cannot be.
    """
    uri = urlsplit(address.uri)
    try:
        port = uri.port
    except ValueError:
        raise UsageError(f"{address.uri!r} has no usable port.", hint="Write it like qmp+ssh://root@beta:2222/.") from None
    if uri.password is not None:
        raise UsageError("A password has no place in a URI, where everybody can read it.", hint="Use a key and an ssh agent.")
    if uri.path not in ("", "/") or uri.query or uri.fragment:
        raise UsageError(f"{address.uri!r} says more than a host.", hint="Write it like qmp+ssh://root@beta/ or qmp:///.")
    if not uri.scheme.endswith("+ssh"):
        if uri.netloc:
            raise UsageError(f"{address.uri!r} names a host but no way to it.", hint=f"Write qmp+ssh://{uri.netloc}/.")
        return None
    if not uri.hostname:
        raise UsageError(f"{address.uri!r} names no host.", hint="Write it like qmp+ssh://root@beta/; qmp:/// is this host.")
    return SshTarget(
        host=unquote(uri.hostname),
        user=unquote(uri.username) if uri.username else None,
        port=port,
        identity=address.ssh_identity,
        known_hosts=address.ssh_known_hosts,
    )
