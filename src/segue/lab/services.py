"""What a host of the lab is configured to be: its files, its daemons, and how one knows that they answer.

Traps that were paid for, so that nobody pays again: two libvirtds on one machine need a `host_uuid` each, or libvirt refuses to
"migrate to the same host"; `stdio_handler = "file"` does without virtlogd; without cgroups and without the QEMU mount namespace
nothing of the machine's own is touched. What may live here: the text of configuration files and the commands that start daemons.
"""

from __future__ import annotations

import asyncio
import shutil
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from segue.errors import LabError
from segue.lab import hosts as processes
from segue.lab.layout import ADMIN, GUEST_LOGS, GUEST_RUN, HOST_STATE, OWN_DIRECTORIES, STORAGE, Layout, address
from segue.lab.shell import run

LIBVIRT_TCP_PORT: Final = 16509
MOUNT_PROGRAM: Final = "100005"  # RFC 1813, appendix I: the last thing an NFSv3 server registers
READY_DEADLINE_S: Final = 20.0
READY_PAUSE_S: Final = 0.02

_LIBVIRTD: Final = """\
listen_tls = 0
listen_tcp = 1
auth_tcp = "none"
auth_unix_rw = "none"
host_uuid = "{uuid}"
log_outputs = "3:file:/var/log/libvirt/libvirtd.log"
"""

_QEMU: Final = """\
security_driver = "none"
user = "root"
group = "root"
dynamic_ownership = 0
cgroup_controllers = []
namespaces = []
stdio_handler = "file"
swtpm_user = "root"
swtpm_group = "root"
"""

# A host's own CA for TPMs: the machine's may belong to somebody else, and is not ours to write to.
_SWTPM: Final = """\
statedir = /var/lib/libvirt/swtpm-localca
signingkey = /var/lib/libvirt/swtpm-localca/signkey.pem
issuercert = /var/lib/libvirt/swtpm-localca/issuercert.pem
certserial = /var/lib/libvirt/swtpm-localca/certserial
"""

_SSHD: Final = """\
HostKey /etc/ssh/host_ed25519
AuthorizedKeysFile /etc/ssh/authorized_keys
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
StrictModes no
UsePAM no
UseDNS no
PidFile /run/sshd.pid
Subsystem sftp internal-sftp
AllowStreamLocalForwarding yes
MaxStartups 100
SetEnv {environment}
"""

_SSH: Final = """\
Host *
  User root
  IdentityFile {key}
  IdentitiesOnly yes
  GlobalKnownHostsFile {known_hosts}
  UserKnownHostsFile /dev/null
  StrictHostKeyChecking yes
  BatchMode yes
"""

# NFSv3 over TCP is what both QEMU's client (libnfs) and every kernel speak. No lock manager: images are locked by nobody here,
# and that exactly one copy runs is what the auditor is for. From release 6 on Ganesha ends itself where it may not become an
# IO flusher (no CAP_SYS_RESOURCE, as in a container), unless told otherwise; older ones warn that they do not know the word.
_GANESHA: Final = """\
NFS_CORE_PARAM {{
  Protocols = 3; NFS_Port = 2049; MNT_Port = 20048; Enable_NLM = false; Enable_RQUOTA = false; Allow_Set_Io_Flusher_Fail = true;
}}
NFSV4 {{ Graceless = true; }}
EXPORT_DEFAULTS {{ Access_Type = RW; Squash = No_Root_Squash; SecType = sys; Transports = TCP; Protocols = 3; }}
EXPORT {{ Export_Id = 1; Path = "{export}"; Pseudo = "{export}"; FSAL {{ Name = VFS; }} }}
LOG {{ Default_Log_Level = EVENT; }}
"""


async def make_keys(layout: Layout, hosts: Iterable[str], *, lock: int) -> None:
    """Make one key pair that opens every host, one host key each, and the known_hosts file that goes with them.

    Args:
        layout: of the lab.
        hosts: all of them.
        lock: the lab's lock, which each command holds until it has written its file.
    """
    directory = layout.client_key.parent
    directory.mkdir(mode=0o700, parents=True)
    hosts = tuple(hosts)
    names = [layout.client_key.name, *hosts]
    async with asyncio.TaskGroup() as group:
        for name in names:
            keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"lab {name}", "-f", str(directory / name)]
            group.create_task(run(keygen, pass_fds=(lock,)))
    lines = [f"{host},{address(host)} {(directory / f'{host}.pub').read_text(encoding='utf-8')}" for host in hosts]
    layout.known_hosts.write_text("".join(lines), encoding="utf-8")


def write_host(layout: Layout, host: str, hosts: Iterable[str]) -> None:
    """Write everything that is a host's own, ready to be mounted over the machine's."""
    root = layout.host_root(host)
    for place in OWN_DIRECTORIES:
        (root / place.lstrip("/")).mkdir(parents=True)
    etc = root / "etc"
    shutil.copytree("/etc", etc, symlinks=True, dirs_exist_ok=True, ignore=_skip)
    for place in ("etc/libvirt", "etc/ssh", "etc/qemu", "etc/pki", "var/log/libvirt", "run/sshd", "run/lock"):
        (root / place).mkdir(parents=True, exist_ok=True)
    for place in (GUEST_LOGS, GUEST_RUN):
        (root / place.lstrip("/")).mkdir(parents=True)
    names = "".join(f"{address(other)} {other}\n" for other in hosts)
    own = f"SEGUE_STATE={HOST_STATE}"  # each host's Segue writes down what it leads itself
    logged_in = [own if one.startswith("SEGUE_STATE=") else one for one in processes.environment(layout)]
    for path, text in {
        "hostname": f"{host}\n",
        "hosts": f"127.0.0.1 localhost\n{names}",
        "resolv.conf": "",
        "libvirt/libvirtd.conf": _LIBVIRTD.format(uuid=uuid.uuid4()),
        "libvirt/qemu.conf": _QEMU,
        "swtpm-localca.conf": _SWTPM,
        "qemu/bridge.conf": "allow br0\n",
        "ssh/sshd_config": _SSHD.format(environment=" ".join(f'"{one}"' for one in logged_in)),
        "ssh/ssh_config": _SSH.format(key=layout.client_key, known_hosts=layout.known_hosts),
        "ganesha.conf": _GANESHA.format(export=layout.export),
    }.items():
        (etc / path).unlink(missing_ok=True)  # a copied link must not be written through
        (etc / path).write_text(text, encoding="utf-8")
    _log_in_with_sh(etc / "passwd")
    keys = layout.client_key.parent
    shutil.copy2(keys / host, etc / "ssh/host_ed25519")
    shutil.copy2(layout.client_key.with_suffix(".pub"), etc / "ssh/authorized_keys")


def _log_in_with_sh(passwd: Path) -> None:
    """Give root a plain sh: a bash that sshd starts reads the user's own ~/.bashrc, which may take its time or wait for ever."""
    entries = passwd.read_text(encoding="utf-8").splitlines()
    own = [entry.rpartition(":")[0] + ":/bin/sh" if entry.startswith("root:") else entry for entry in entries]
    passwd.write_text("".join(f"{entry}\n" for entry in own), encoding="utf-8")


def _skip(directory: str, names: list[str]) -> set[str]:
    """The machine's own libvirt and ssh configuration (and its keys) stay the machine's."""
    return {name for name in names if directory == "/etc" and name in ("libvirt", "ssh", "qemu", "pki", "libvirt-sanlock")}


DAEMONS: Final = {
    ADMIN: (),
    STORAGE: (
        ("rpcbind", "-w"),
        ("ganesha.nfsd", "-f", "/etc/ganesha.conf", "-L", "/var/log/ganesha.log", "-p", "/run/ganesha.pid"),
    ),
}
"""What runs where, started in this order; each goes into the background by itself."""
GUEST_HOST_DAEMONS: Final = (("sshd",), ("libvirtd", "--daemon", "--listen"))


def daemons(host: str) -> tuple[tuple[str, ...], ...]:
    """The daemons of a host. sshd insists on an absolute path of its own."""
    wanted = DAEMONS.get(host, GUEST_HOST_DAEMONS)
    return tuple((shutil.which(argv[0], path=SBIN_PATH) or argv[0], *argv[1:]) for argv in wanted)


SBIN_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


async def wait_ready(layout: Layout, host: str, enter: list[str]) -> None:
    """Wait until a host's daemons answer.

    Args:
        layout: of the lab.
        host: the host.
        enter: words that run what follows inside the host.

    Raises:
        LabError: they do not by the deadline; with the end of their log.
    """
    if host == ADMIN:
        return
    log = layout.host_path(host, "/var/log/ganesha.log" if host == STORAGE else "/var/log/libvirt/libvirtd.log")
    try:
        async with asyncio.timeout(READY_DEADLINE_S):
            if host == STORAGE:
                ask = [*enter, "rpcinfo", "-t", "127.0.0.1", MOUNT_PROGRAM, "3"]
                while (await run(ask, check=False)).status:  # noqa: ASYNC110  # another process: there is no event
                    await asyncio.sleep(READY_PAUSE_S)
            else:
                await _answers(layout.host_path(host, "/run/libvirt/libvirt-sock"))
    except TimeoutError:
        raise LabError(f"The daemons of {host} do not answer after {READY_DEADLINE_S:g} s. {_tail(log)}") from None


async def _answers(path: Path) -> None:
    """Connect to a unix socket as soon as somebody listens there; there is no event for that."""
    while True:
        try:
            _, writer = await asyncio.open_unix_connection(path)
        except OSError:
            await asyncio.sleep(READY_PAUSE_S)
        else:
            writer.close()
            return


def _tail(log: Path) -> str:
    try:
        return " ".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-3:])
    except OSError:
        return f"There is no {log.name}."
