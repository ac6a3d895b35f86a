"""What only trying shows: that hosts see the same file, that their clocks agree, what names are to them.

A file is written and read as the user that QEMU runs as: root may read much that QEMU may not (root squash, modes, owners).
What may live here: the trials. Each cleans up after itself, but for 512 bytes that QEMU's NFS client cannot remove.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from typing import Final

from segue.core.hostchecks import Finding
from segue.hosts import HostShell
from segue.provision.pki.onhost import qemu_user

COMMAND_S: Final = 30.0
TRIAL_S: Final = "20"
"""For one access: a hard NFS mount whose server is gone would hold it for ever."""
_NFS: Final = "nfs://"

_WRITE_FILE: Final = 'umask 077; printf %s "$2" >"$1" && sync -- "$1"'
_READ_FILE: Final = 'cat -- "$1"'
# QEMU's own client: $1 the image, $2 a byte that fills it.
_WRITE_IMAGE: Final = 'qemu-img create -q -f raw "$1" 512 && qemu-io -f raw -c "write -P $2 0 512" "$1" >/dev/null'
_READ_IMAGE: Final = 'qemu-io -r -f raw -c "read -P $2 0 512" "$1" | grep -q "Pattern verification failed" && exit 1 || :'


async def clocks(shells: Mapping[str, HostShell]) -> dict[str, tuple[float, float]]:
    """How far each host's clock is from this machine's, and by how much that may be wrong, in seconds."""
    offsets = {}
    for host, shell in shells.items():
        began = time.time()
        said = await shell.run(["date", "+%s.%N"], deadline_s=COMMAND_S)
        took = time.time() - began
        if not said.status:
            offsets[host] = (float(said.stdout) - began - took / 2, took / 2)
    return offsets


async def storage(host: str, shells: Mapping[str, HostShell], place: str) -> list[Finding]:
    """Write a file in a shared place as QEMU's user of one host, and read it as QEMU's user of each other.

    Args:
        host: who writes.
        shells: all hosts that answer.
        place: a directory at that path on every host, or ``nfs://SERVER/PATH`` for QEMU's own client.

    Raises:
        HostUnreachable, AnswerNotSeen.
        PkiError: qemu.conf there names a user that there is not.
    """
    token, byte = secrets.token_hex(16), str(secrets.randbelow(254) + 1)
    is_image = place.startswith(_NFS)
    path = f"{place.rstrip('/')}/.segue-proof-{host if is_image else token[:8]}"
    write, read = (_WRITE_IMAGE, _READ_IMAGE) if is_image else (_WRITE_FILE, _READ_FILE)
    word = byte if is_image else token
    wrote = await _as_qemu(shells[host], write, path, word)
    if isinstance(wrote, str):
        text = f"QEMU there cannot write to {place}: {wrote}"
        return [Finding(host=host, about="storage", text=text, fix=_permission(place))]
    found = []
    try:
        for other, shell in shells.items():
            got = await _as_qemu(shell, read, path, word)
            if isinstance(got, str):
                text = f"QEMU cannot read there what QEMU on {host} wrote to {place}: {got}"
                found.append(Finding(host=other, about="storage", text=text, fix=_permission(place)))
            elif not is_image and got.decode(errors="replace") != token:
                text = f"{place} is another place there than on {host}"
                found.append(Finding(host=other, about="storage", text=text, fix=f"mount the same export at {place} on both"))
    finally:
        if not is_image:
            await shells[host].run(["rm", "-f", "--", path], deadline_s=COMMAND_S)
    return found


async def without_qemu(shells: Mapping[str, HostShell]) -> list[str]:
    """The hosts that have no QEMU: nothing can be tried there as its user."""
    ask = ["sh", "-c", "command -v qemu-img"]
    return [host for host, shell in shells.items() if (await shell.run(ask, deadline_s=COMMAND_S)).status]


async def _as_qemu(shell: HostShell, script: str, path: str, word: str) -> bytes | str:
    """What a script says as the user that QEMU runs as; why it failed, as text."""
    user, group = await qemu_user(shell)
    argv = ["setpriv", "--reuid", user, "--regid", group, "--init-groups", "--", "timeout", TRIAL_S, "sh", "-c", script, "sh"]
    done = await shell.run([*argv, path, word], deadline_s=COMMAND_S)
    if not done.status:
        return done.stdout
    lines = done.complaint.splitlines()
    why = "no answer" if done.status == 124 else lines[-1].rstrip(".") if lines else "what it reads is something else"
    return f"{why} (as {user})"


def _permission(place: str) -> str:
    if place.startswith(_NFS):
        return "is that exported to this host, and may others write in it? QEMU comes there with its own uid and gid"
    return f"is it mounted, and may QEMU's user enter it? On the server: uid and gid, root_squash; here: ls -ldn {place}"
