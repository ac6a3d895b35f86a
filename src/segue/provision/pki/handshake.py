"""TLS between hosts, tried with the programs that will speak it. What may live here: the two probes.

libvirtd's port is asked by virsh, which reads the files that any libvirt client on that host reads. On QEMU's port nobody listens
until a migration begins; so qemu-nbd does for a moment, in the range that libvirt takes its ports from, and qemu-img connects:
both load the same directory with the same code as a QEMU that migrates (crypto/tlscredsx509.c), and as the same user.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Final

from segue.errors import PkiError
from segue.hosts import HostShell
from segue.provision.pki.onhost import COMMAND_S

HANDSHAKE_S: Final = 10
"""For one connection: some round trips, and a firewall that drops packets must not hold up the rest for long."""
LISTEN_S: Final = 120
"""Then a listener ends by itself: whoever started it is gone."""
_CREDENTIALS: Final = "tls-creds-x509,id=tls,dir=/etc/pki/qemu,verify-peer=on,endpoint="

# $1 as whom, $2 its group, $3 how long, $4 the address; after them the ports to try. Prints the pid and the port.
_LISTEN: Final = r"""
user=$1 group=$2 seconds=$3 bind=$4; shift 4
dir=$(mktemp -d) || exit
trap 'rm -rf -- "$dir"' EXIT
chown -- "$user" "$dir" || exit
for port; do
  setpriv --reuid "$user" --regid "$group" --init-groups -- qemu-nbd --fork --pid-file="$dir/pid" --persistent --shared=100 \
    --object "$CREDENTIALS" --tls-creds tls --bind "$bind" --port "$port" --image-opts driver=null-co,size=512 \
    2>"$dir/said" || continue
  pid=$(cat "$dir/pid")
  (timeout "$seconds" tail --pid="$pid" -f /dev/null || kill "$pid") >/dev/null 2>&1 </dev/null &
  echo "$pid $port"
  exit
done
cat "$dir/said" >&2
exit 1
"""


async def with_libvirt(source: HostShell, name: str, port: int) -> str:
    """Connect from a host to the libvirt of the one of that name.

    Returns:
        Why it did not succeed, in libvirt's words; empty where it did.
    """
    there = f"[{name}]" if ":" in name else name
    uri = f"qemu+tls://{there}:{port}/system"
    return await _try(source, ["virsh", "-q", "-c", uri, "uri"])


async def with_qemu(source: HostShell, user: str, group: str, name: str, port: int) -> str:
    """Connect from a host, as QEMU would, to the listener at that name.

    Returns:
        Why it did not succeed, in QEMU's words; empty where it did.
    """
    image = f"driver=nbd,server.type=inet,server.host={name},server.port={port},tls-creds=tls"
    ask = ["qemu-img", "info", "--object", f"{_CREDENTIALS}client", "--image-opts", image]
    return await _try(source, ["setpriv", "--reuid", user, "--regid", group, "--init-groups", "--", *ask])


async def _try(source: HostShell, argv: Sequence[str]) -> str:
    done = await source.run(["timeout", str(HANDSHAKE_S), *argv], deadline_s=HANDSHAKE_S + COMMAND_S)
    if not done.status:
        return ""
    lines = done.complaint.splitlines()
    return lines[-1] if lines else f"no answer within {HANDSHAKE_S} s" if done.status == 124 else f"status {done.status}"


@contextlib.asynccontextmanager
async def listener(host: HostShell, user: str, group: str, *, bind: str, ports: tuple[int, int]) -> AsyncIterator[int]:
    """Somebody listens with QEMU's certificates on a host, at the end of a range of ports; ended when the context is left.

    Yields:
        On which port.

    Raises:
        PkiError: QEMU cannot listen there; with its own words.
    """
    first, last = ports
    tried = [str(port) for port in range(last, max(first, last - 2) - 1, -1)]  # where a migration comes last
    script = _LISTEN.replace("$CREDENTIALS", f"{_CREDENTIALS}server")
    argv = ["sh", "-c", script, "sh", user, group, str(LISTEN_S), bind, *tried]
    done = await host.run(argv, deadline_s=COMMAND_S)
    if done.status:
        lines = done.complaint.splitlines()
        raise PkiError(f"QEMU cannot listen on {host.name}: {lines[-1] if lines else done.status}.")
    pid, port = done.stdout.split()
    try:
        yield int(port)
    finally:
        await host.run(["kill", pid.decode()], deadline_s=COMMAND_S)
