"""Errors in people's words: the table knows every number that libvirt exports, and real sayings get their sentence."""

from __future__ import annotations

import re
import string

import libvirt
import pytest

from segue.core import causes
from segue.core.causes import Cause, Quote, Scene
from segue.core.causes.clues import CLUES
from segue.core.causes.codes import BY_DOMAIN, DOMAINS, JOB, LIBVIRT, QMP
from segue.core.causes.explain import MOST_QUOTED, hypervisors_words
from segue.core.causes.words import WORDS
from segue.errors import AnswerNotSeen, HypervisorError, PrepareFailed

SCENE = Scene(guest="web1", here="alpha", there="beta")
LEVELS = {"VIR_ERR_NONE", "VIR_ERR_WARNING", "VIR_ERR_ERROR"}  # virErrorLevel: not numbers of errors


def exported(prefix: str) -> dict[str, int]:
    return {name: number for name, number in vars(libvirt).items() if name.startswith(prefix) and isinstance(number, int)}


def said(text: str, number: int | str, area: str = "NONE", host: str = "alpha") -> HypervisorError:
    return HypervisorError(
        f"libvirt on {host}: {text}.", host=host, raw=text, number=number, area=DOMAINS.index(area) if area in DOMAINS else -1
    )


# --- complete


def test_every_error_number_that_libvirt_exports_is_in_the_table():
    numbers = {number: name for name, number in exported("VIR_ERR_").items() if name not in LEVELS}
    missing = {number: name for number, name in numbers.items() if number not in LIBVIRT}
    assert not missing, "say in core/causes/codes.py what it means for a migration"
    assert {number: LIBVIRT[number].name for number in numbers} == numbers


def test_every_part_of_libvirt_that_speaks_has_its_name():
    areas = {number: name.removeprefix("VIR_FROM_") for name, number in exported("VIR_FROM_").items()}
    assert {number: DOMAINS[number] for number in areas} == areas


@pytest.mark.parametrize("cause", Cause)
def test_every_cause_has_a_sentence_and_a_fix_that_can_be_filled_in(cause):
    places = {"here", "there", "host", "peer", "guest", "it", "raw", "message", "pair"}
    words = WORDS[cause]
    for text in (words.what, words.fix, words.bare):
        assert {name for _, name, _, _ in string.Formatter().parse(text) if name is not None} <= places
    assert words.fix.endswith((".", "?"))
    assert "{it}" not in words.what or words.bare, "what is read where nothing is named?"
    assert "{it}" not in words.fix + words.bare


def test_every_cause_can_come_up():
    """By a number of its own, or by words under a number that leaves it open."""
    by_number = {code.cause for code in (*LIBVIRT.values(), *QMP.values())}
    by_words = {cause for cause, _ in CLUES}
    assert by_number | by_words | {Cause.UNKNOWN} == set(Cause)
    assert set(BY_DOMAIN) == {(number, area) for number, area in BY_DOMAIN if number in LIBVIRT and area in DOMAINS}


def test_every_pattern_names_what_it_finds():
    """They are compiled when they are first needed: none may fail then."""
    for _, pattern in CLUES:
        assert all(name.startswith("it") for name in re.compile(pattern).groupindex)


# --- what was really said: libvirt 9.0 and QEMU 7.2 in a lab of two hosts

SEEN = [
    (
        38,
        "RPC",
        "Unable to resolve address 'gamma' service '16509': Temporary failure in name resolution",
        Cause.NAME_UNKNOWN,
        "gamma",
    ),
    (38, "RPC", "unable to connect to server at 'beta:16509': Connection refused", Cause.DAEMON_REFUSED, "beta:16509"),
    (38, "RPC", "unable to connect to server at 'beta:16509': Connection timed out", Cause.DAEMON_SILENT, "beta:16509"),
    (38, "RPC", "unable to connect to server at '10.77.0.12:49152': Connection refused", Cause.PORT_REFUSED, "10.77.0.12:49152"),
    (38, "RPC", "unable to connect to server at '10.77.0.12:49152': No route to host", Cause.NO_ROUTE, "10.77.0.12:49152"),
    (38, "RPC", "End of file while reading data: Input/output error", Cause.DAEMON_GONE, ""),
    (38, "RPC", "Cannot read CA certificate '/etc/pki/CA/cacert.pem': No such file or directory", Cause.TLS_FILES, "cacert.pem"),
    (38, "NONE", "Cannot get interface MTU on 'br7': No such device", Cause.BRIDGE_MISSING, "br7"),
    (38, "QEMU", "Cannot check QEMU binary /usr/bin/qemu-none: No such file or directory", Cause.EMULATOR, "/usr/bin/qemu-none"),
    (
        38,
        "STORAGE",
        "Cannot access storage file '/var/lib/libvirt/x.img': No such file or directory",
        Cause.FILE_MISSING,
        "beta has no /var/lib/libvirt/x.img",
    ),
    (
        38,
        "STORAGE",
        "Cannot access storage file '/srv/x.img' (as uid:64055, gid:64055): Permission denied",
        Cause.FILE_FORBIDDEN,
        "QEMU on beta may not use /srv/x.img",
    ),
    (
        67,
        "DOMAIN",
        "unsupported configuration: Target network card model e1000e does not match source virtio",
        Cause.DEFINITION_DIFFERS,
        "e1000e",
    ),
    (
        67,
        "CPU",
        "unsupported configuration: Target CPU check full does not match source none",
        Cause.DEFINITION_DIFFERS,
        "check full",
    ),
    (
        1,
        "QEMU",
        "internal error: hugetlbfs filesystem is not mounted or disabled by administrator config",
        Cause.HUGE_PAGES,
        "beta",
    ),
    (
        38,
        "NONE",
        "cannot limit locked memory of process 1191 to 268435456: Operation not permitted",
        Cause.MEMORY_LOCK,
        "alpha",
    ),
    (
        1,
        "QEMU",
        "internal error: process exited while connecting to monitor: qemu-system-x86_64: -vnc 127.0.0.1:77,audiodev=audio1: "
        "Failed to find an available port: Address already in use",
        Cause.DISPLAY_PORT,
        "127.0.0.1:77",
    ),
    (
        1,
        "QEMU",
        "internal error: process exited while connecting to monitor: qemu-system-x86_64: -vnc 10.77.0.11:0,audiodev=audio1: "
        "Failed to bind socket: Cannot assign requested address",
        Cause.DISPLAY_ADDRESS,
        "10.77.0.11:0",
    ),
    (1, "QEMU", "internal error: qemu-system-x86_64: unsupported machine type", Cause.MACHINE, "beta"),
    (1, "QEMU", "internal error: Attempt to migrate guest to the same host 897fbd92", Cause.SAME_HOST, "host_uuid"),
    (
        1,
        "QEMU",
        "internal error: unable to execute QEMU command 'cont': Failed to get shared \"write\" lock",
        Cause.FILE_LOCKED,
        "locked",
    ),
    (1, "QEMU", "internal error: qemu unexpectedly closed the monitor", Cause.DESTINATION_DIED, "beta died"),
    (
        1,
        "QEMU",
        "internal error: unable to execute QEMU command 'object-add': Unable to access credentials /etc/pki/qemu/ca-cert.pem: "
        "No such file or directory",
        Cause.TLS_FILES,
        "/etc/pki/qemu/ca-cert.pem",
    ),
    (9, "DOMAIN", "operation failed: domain 'g1' already exists with uuid 5678c3f3", Cause.GUEST_EXISTS, "virsh undefine web1"),
    (45, "RPC", "authentication failed: authentication failed", Cause.AUTH_REFUSED, "auth_tcp"),
    (39, "RPC", "packet 1416128879 bytes received from server too large, want 33554432", Cause.NOT_LIBVIRT, "16514"),
    (78, "QEMU", "operation aborted: job 'migration out' canceled by client", Cause.ABORTED, ""),
    (81, "QEMU", "Unsafe migration: Migration without shared storage is unsafe", Cause.UNSAFE_STORAGE, "--copy-storage"),
    (
        81,
        "QEMU",
        "Unsafe migration: Migration may lead to data corruption if disks use cache other than none",
        Cause.UNSAFE_CACHE,
        "cache=",
    ),
    (
        55,
        "QEMU",
        "Requested operation is not valid: zero-copy is only available for parallel migration",
        Cause.UNSUPPORTED,
        "parallel",
    ),
    (
        91,
        "CPU",
        "the CPU is incompatible with host CPU: Host CPU does not provide required features: avx512f, hle",
        Cause.CPU,
        "baseline",
    ),
    (68, "QEMU", "Timed out during operation: cannot acquire state change lock (held by monitor=x)", Cause.GUEST_BUSY, "web1"),
    (42, "QEMU", "Domain not found: no domain with matching name 'g1'", Cause.GUEST_GONE, "web1"),
]


@pytest.mark.parametrize(
    ("number", "area", "text", "cause", "named"), SEEN, ids=lambda value: value if isinstance(value, Cause) else ""
)
def test_what_libvirt_really_said_is_told_in_words(number, area, text, cause, named):
    told = causes.explain(said(text, number, area), (), SCENE)
    assert told.cause is cause
    assert named in f"{told.sentence} {told.fix}"
    assert told.sentence.endswith(".")
    assert told.quotes == (f"alpha, libvirt ({LIBVIRT[number].name}, {area}): {text}",)


LOGGED = [
    (
        "load of migration failed: Invalid argument",
        "Length mismatch: pc.ram: 0x8000000 in != 0x10000000",
        Cause.STREAM_MEMORY,
        "pc.ram",
    ),
    (
        "Unable to write to socket: Connection reset by peer",
        "error while loading state for instance 0x0 of device '0000:00:02.0/virtio-net'",
        Cause.STREAM_DEVICE,
        "virtio-net",
    ),
    ("Channel error: Broken pipe", "Not a migration stream", Cause.STREAM_BROKEN, "received"),
    ("Certificate does not match the hostname 10.77.0.12", "", Cause.TLS_NAME, "10.77.0.12"),
    ("Unable to write to socket: Broken pipe", "check_section_footer: Read section footer failed: -5", Cause.LINK_LOST, "broke"),
    ("State blocked by non-migratable device '0000:00:04.0/ivshmem'", "", Cause.DEVICE_BLOCKS, "ivshmem"),
    ("it does not say why", "", Cause.HYPERVISOR, "it does not say why"),
]


@pytest.mark.parametrize(("why", "logged", "cause", "named"), LOGGED)
def test_a_log_of_the_other_host_tells_more_than_the_one_who_failed(why, logged, cause, named):
    quotes = (Quote(host="beta", where="web1.log", text=logged),) if logged else ()
    told = causes.explain(said(why, JOB), quotes, SCENE)
    assert told.cause is cause
    assert named in told.sentence
    assert [quote.split(":")[0] for quote in told.quotes] == ["alpha, QEMU (error-desc)", *(["beta, web1.log"] if logged else [])]


# --- honest


def test_words_never_overrule_a_number():
    """A number that means one thing means it, whatever stands in its text or in a log."""
    log = (Quote(host="beta", where="web1.log", text="Could not open '/x.img': No such file or directory"),)
    assert causes.explain(said("Permission denied (publickey)", 91, "CPU"), log, SCENE).cause is Cause.CPU
    assert causes.explain(said("No space left on device", 81, "QEMU"), log, SCENE).cause is Cause.UNSAFE_STORAGE


def test_what_nobody_knows_is_shown_as_it_came():
    told = causes.explain(said("the flux is inverted", 4711), (Quote(host="beta", where="web1.log", text="help"),), SCENE)
    assert told.cause is Cause.UNKNOWN
    assert told.sentence == "alpha said something that Segue does not know: the flux is inverted."
    assert told.quotes == ("alpha, libvirt (error 4711, NONE): the flux is inverted", "beta, web1.log: help")


def test_a_number_that_no_migration_gets_is_called_that():
    assert causes.explain(said("no such snapshot", 72), (), SCENE).cause is Cause.UNEXPECTED


def test_a_log_that_cannot_be_read_tells_nothing_and_is_told():
    silent = Quote(host="beta", where="web1.log", text="could not be read: No route to host", silent=True)
    told = causes.explain(said("odd", 1), (silent,), SCENE)
    assert told.cause is Cause.HYPERVISOR
    assert "could not be read" in told.quotes[1]


def test_errors_that_segue_words_itself_are_left_alone():
    assert hypervisors_words(HypervisorError("beta does not hold the guest.", host="beta")) is None
    assert hypervisors_words(AnswerNotSeen("no answer", host="beta", raw="x", number=38)) is None
    wrapped = PrepareFailed("It did not start.")
    wrapped.__cause__ = said("Permission denied", "GenericError")
    assert hypervisors_words(wrapped) is wrapped.__cause__
    started = hypervisors_words(
        PrepareFailed("QEMU does not start on beta: x", host="beta", raw="Could not open '/a': Permission denied")
    )
    assert started is not None
    assert causes.explain(started, (), SCENE).sentence == "QEMU on beta may not use /a."


def test_a_log_is_cut_to_what_tells_something():
    usual = ["2026-11-25 23:28:11.714+0000: starting up libvirt version: 9.0.0", "LC_ALL=C \\", "-name guest=web1 \\", "", "x: y"]
    assert causes.telling([*usual, "x: y"]) == ["x: y"]
    assert len(causes.telling([f"line {number}" for number in range(50)])) == MOST_QUOTED
