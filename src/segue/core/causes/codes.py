"""libvirt's error numbers and QMP's error classes: what each means for a migration.

The numbers are libvirt's virErrorNumber and virErrorDomain (include/libvirt/virterror.h), QMP's classes QapiErrorClass
(qapi/error.json). A test holds this table to what the installed libvirt exports. What may live here: tables.

A number decides which causes are possible. Where it leaves several, words may choose among them (`clues`), for a better sentence
and for nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from segue.core.causes.words import Cause

_C = Cause
_TLS: Final = frozenset({_C.TLS_NAME, _C.TLS_DATES, _C.TLS_REVOKED, _C.TLS_UNTRUSTED, _C.TLS_FILES, _C.TLS_FAILED})
_WAY: Final = frozenset(
    {_C.DAEMON_REFUSED, _C.DAEMON_SILENT, _C.DAEMON_GONE, _C.NO_ROUTE, _C.NAME_UNKNOWN, _C.SSH_REFUSED, _C.SSH_HOST_KEY}
) | {_C.NOT_LIBVIRT, _C.AUTH_REFUSED}
_FILES: Final = frozenset({_C.FILE_MISSING, _C.FILE_FORBIDDEN, _C.FILE_LOCKED, _C.NO_SPACE})
ANY: Final = frozenset(Cause)


@dataclass(frozen=True, slots=True)
class Code:
    """One number.

    Attributes:
        name: libvirt's own.
        cause: what it means by itself.
        among: the causes of which words may choose a better one.
    """

    name: str
    cause: Cause
    among: frozenset[Cause] = frozenset()


def _unexpected(names: str) -> dict[int, Code]:
    """Numbers of calls that no migration makes, or that libvirt does not use any more."""
    pairs = (word.partition(":")[::2] for word in names.split())
    return {int(number): Code(f"VIR_ERR_{name}", Cause.UNEXPECTED) for number, name in pairs}


LIBVIRT: Final[dict[int, Code]] = {
    **_unexpected(
        "0:OK 10:GET_FAILED 11:POST_FAILED 12:HTTP_ERROR 13:SEXPR_SERIAL 14:NO_XEN 15:XEN_CALL 17:NO_KERNEL"
        " 18:NO_ROOT 19:NO_SOURCE 20:NO_TARGET 21:NO_NAME 22:NO_OS 24:NO_XENSTORE 25:DRIVER_FULL 37:NETWORK_EXIST"
        " 44:INVALID_MAC 58:INVALID_INTERFACE 59:MULTIPLE_INTERFACES 65:INVALID_SECRET 71:INVALID_DOMAIN_SNAPSHOT"
        " 72:NO_DOMAIN_SNAPSHOT 76:STORAGE_POOL_BUILT 77:SNAPSHOT_REVERT_RISKY 80:NO_DOMAIN_METADATA"
        " 90:STORAGE_VOL_EXIST 95:NO_SERVER 96:NO_CLIENT 100:INVALID_NWFILTER_BINDING 101:NO_NWFILTER_BINDING"
        " 102:INVALID_DOMAIN_CHECKPOINT 103:NO_DOMAIN_CHECKPOINT 104:NO_DOMAIN_BACKUP 105:INVALID_NETWORK_PORT"
        " 106:NETWORK_PORT_EXIST 109:CHECKPOINT_INCONSISTENT 110:MULTIPLE_DOMAINS"
    ),
    1: Code("VIR_ERR_INTERNAL_ERROR", _C.HYPERVISOR, ANY),
    2: Code("VIR_ERR_NO_MEMORY", _C.MEMORY),
    3: Code("VIR_ERR_NO_SUPPORT", _C.UNSUPPORTED),
    4: Code("VIR_ERR_UNKNOWN_HOST", _C.NAME_UNKNOWN),
    5: Code("VIR_ERR_NO_CONNECT", _C.DAEMON_REFUSED, _WAY | _TLS),
    6: Code("VIR_ERR_INVALID_CONN", _C.DAEMON_GONE),
    7: Code("VIR_ERR_INVALID_DOMAIN", _C.GUEST_GONE),
    8: Code("VIR_ERR_INVALID_ARG", _C.UNSUPPORTED, frozenset({_C.ACCELERATOR, _C.EMULATOR})),
    9: Code("VIR_ERR_OPERATION_FAILED", _C.HYPERVISOR, ANY),
    16: Code("VIR_ERR_OS_TYPE", _C.EMULATOR),
    23: Code("VIR_ERR_NO_DEVICE", _C.DEVICE_UNKNOWN),
    26: Code("VIR_ERR_CALL_FAILED", _C.HYPERVISOR, ANY),
    27: Code("VIR_ERR_XML_ERROR", _C.DEFINITION),
    28: Code("VIR_ERR_DOM_EXIST", _C.GUEST_EXISTS),
    29: Code("VIR_ERR_OPERATION_DENIED", _C.READ_ONLY),
    30: Code("VIR_ERR_OPEN_FAILED", _C.FILE_FORBIDDEN, _FILES),
    31: Code("VIR_ERR_READ_FAILED", _C.FILE_FORBIDDEN, _FILES),
    32: Code("VIR_ERR_PARSE_FAILED", _C.DEFINITION),
    33: Code("VIR_ERR_CONF_SYNTAX", _C.DEFINITION),
    34: Code("VIR_ERR_WRITE_FAILED", _C.NO_SPACE, _FILES),
    35: Code("VIR_ERR_XML_DETAIL", _C.DEFINITION),
    36: Code("VIR_ERR_INVALID_NETWORK", _C.NETWORK_MISSING),
    38: Code("VIR_ERR_SYSTEM_ERROR", _C.HYPERVISOR, ANY),
    39: Code("VIR_ERR_RPC", _C.DAEMON_GONE, _WAY | _TLS),
    40: Code("VIR_ERR_GNUTLS_ERROR", _C.TLS_FAILED, _TLS | {_C.DAEMON_GONE}),
    42: Code("VIR_ERR_NO_DOMAIN", _C.GUEST_GONE),
    43: Code("VIR_ERR_NO_NETWORK", _C.NETWORK_MISSING),
    45: Code("VIR_ERR_AUTH_FAILED", _C.AUTH_REFUSED, _TLS | {_C.SSH_REFUSED, _C.SSH_HOST_KEY}),
    46: Code("VIR_ERR_INVALID_STORAGE_POOL", _C.FILE_MISSING),
    47: Code("VIR_ERR_INVALID_STORAGE_VOL", _C.FILE_MISSING),
    49: Code("VIR_ERR_NO_STORAGE_POOL", _C.FILE_MISSING),
    50: Code("VIR_ERR_NO_STORAGE_VOL", _C.FILE_MISSING),
    52: Code("VIR_ERR_INVALID_NODE_DEVICE", _C.DEVICE_UNKNOWN),
    53: Code("VIR_ERR_NO_NODE_DEVICE", _C.DEVICE_UNKNOWN),
    54: Code("VIR_ERR_NO_SECURITY_MODEL", _C.SECURITY),
    55: Code("VIR_ERR_OPERATION_INVALID", _C.NOT_ALLOWED_NOW, ANY),
    57: Code("VIR_ERR_NO_INTERFACE", _C.BRIDGE_MISSING),
    61: Code("VIR_ERR_INVALID_NWFILTER", _C.NETWORK_MISSING),
    62: Code("VIR_ERR_NO_NWFILTER", _C.NETWORK_MISSING),
    63: Code("VIR_ERR_BUILD_FIREWALL", _C.NETWORK_MISSING),
    66: Code("VIR_ERR_NO_SECRET", _C.FILE_FORBIDDEN),
    67: Code("VIR_ERR_CONFIG_UNSUPPORTED", _C.UNSUPPORTED, ANY),
    68: Code("VIR_ERR_OPERATION_TIMEOUT", _C.TIMED_OUT, frozenset({_C.GUEST_BUSY})),
    69: Code("VIR_ERR_MIGRATE_PERSIST_FAILED", _C.NOT_PERSISTED),
    70: Code("VIR_ERR_HOOK_SCRIPT_FAILED", _C.HOOK),
    73: Code("VIR_ERR_INVALID_STREAM", _C.LINK_LOST),
    74: Code("VIR_ERR_ARGUMENT_UNSUPPORTED", _C.UNSUPPORTED),
    75: Code("VIR_ERR_STORAGE_PROBE_FAILED", _C.FILE_FORBIDDEN, _FILES),
    78: Code("VIR_ERR_OPERATION_ABORTED", _C.ABORTED),
    79: Code("VIR_ERR_AUTH_CANCELLED", _C.AUTH_REFUSED),
    81: Code("VIR_ERR_MIGRATE_UNSAFE", _C.UNSAFE_STORAGE, frozenset({_C.UNSAFE_CACHE})),
    82: Code("VIR_ERR_OVERFLOW", _C.UNSUPPORTED),
    83: Code("VIR_ERR_BLOCK_COPY_ACTIVE", _C.GUEST_BUSY),
    84: Code("VIR_ERR_OPERATION_UNSUPPORTED", _C.UNSUPPORTED, ANY),
    85: Code("VIR_ERR_SSH", _C.SSH_REFUSED, _WAY),
    86: Code("VIR_ERR_AGENT_UNRESPONSIVE", _C.TIMED_OUT),
    87: Code("VIR_ERR_RESOURCE_BUSY", _C.RESOURCE, frozenset({_C.FILE_LOCKED, _C.GUEST_BUSY})),
    88: Code("VIR_ERR_ACCESS_DENIED", _C.AUTH_REFUSED),
    89: Code("VIR_ERR_DBUS_SERVICE", _C.RESOURCE),
    91: Code("VIR_ERR_CPU_INCOMPATIBLE", _C.CPU),
    92: Code("VIR_ERR_XML_INVALID_SCHEMA", _C.DEFINITION),
    93: Code("VIR_ERR_MIGRATE_FINISH_OK", _C.FINISHED_TWICE),
    94: Code("VIR_ERR_AUTH_UNAVAILABLE", _C.AUTH_REFUSED),
    97: Code("VIR_ERR_AGENT_UNSYNCED", _C.TIMED_OUT),
    98: Code("VIR_ERR_LIBSSH", _C.SSH_REFUSED, _WAY),
    99: Code("VIR_ERR_DEVICE_MISSING", _C.DEVICE_UNKNOWN),
    107: Code("VIR_ERR_NO_NETWORK_PORT", _C.NETWORK_MISSING),
    108: Code("VIR_ERR_NO_HOSTNAME", _C.NAME_UNKNOWN),
}
"""By virErrorNumber. What is not in it is unknown."""

JOB: Final = "error-desc"
"""In place of a class: why QEMU's migration failed (qapi/migration.json, MigrationInfo)."""
VIRSH: Final = "virsh"
"""In place of a class: what a virsh wrote that did not connect."""
STDERR: Final = "stderr"
"""In place of a class: what a QEMU wrote that did not start."""
HALF: Final = "half"
"""In place of a class: of a post-copy that is to be connected again, one host has nothing any more, as both were seen to show."""
QMP: Final[dict[str, Code]] = {
    "GenericError": Code("GenericError", _C.HYPERVISOR, ANY),
    "CommandNotFound": Code("CommandNotFound", _C.UNSUPPORTED),
    "DeviceNotActive": Code("DeviceNotActive", _C.NOT_ALLOWED_NOW),
    "DeviceNotFound": Code("DeviceNotFound", _C.DEVICE_UNKNOWN),
    "KVMMissingCap": Code("KVMMissingCap", _C.ACCELERATOR),
    JOB: Code(JOB, _C.HYPERVISOR, ANY),
    STDERR: Code(STDERR, _C.DESTINATION_START, ANY),
    HALF: Code(HALF, _C.POSTCOPY_LOST),
    VIRSH: Code(VIRSH, _C.HYPERVISOR, _WAY | _TLS),
}
"""By QapiErrorClass, and by the ways in which something is said without one."""

_AREAS: Final = (
    "NONE XEN XEND XENSTORE SEXPR XML DOM RPC PROXY CONF QEMU NET TEST REMOTE OPENVZ XENXM STATS_LINUX LXC STORAGE NETWORK DOMAIN"
    " UML NODEDEV XEN_INOTIFY SECURITY VBOX INTERFACE ONE ESX PHYP SECRET CPU XENAPI NWFILTER HOOK DOMAIN_SNAPSHOT AUDIT SYSINFO"
    " STREAMS VMWARE EVENT LIBXL LOCKING HYPERV CAPABILITIES URI AUTH DBUS PARALLELS DEVICE SSH LOCKSPACE INITCTL IDENTITY CGROUP"
    " ACCESS SYSTEMD BHYVE CRYPTO FIREWALL POLKIT THREAD ADMIN LOGGING XENXL PERF LIBSSH RESCTRL FIREWALLD DOMAIN_CHECKPOINT TPM"
    " BPF CH"
)
DOMAINS: Final = tuple(_AREAS.split())
"""virErrorDomain by its number: which part of libvirt speaks."""

BY_DOMAIN: Final[dict[tuple[int, str], frozenset[Cause]]] = {
    (38, "STORAGE"): _FILES,
    (38, "RPC"): _WAY | _TLS | {_C.PORT_REFUSED, _C.PORT_SILENT, _C.LINK_LOST},
    (1, "RPC"): _WAY | _TLS,
    (67, "CPU"): frozenset({_C.CPU, _C.DEFINITION_DIFFERS}),
}
"""Where the part of libvirt says more than the number does: only these causes are left to choose from."""
