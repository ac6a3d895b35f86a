"""Every error Segue raises on purpose, in one tree.

    SegueError
    ├── UsageError            usage          the words of the call are wrong; nothing was touched        exit 2
    │   ├── ConfigError       config         segue.toml cannot be used                                   exit 2
    │   └── MigrationNotFound  migration-not-found  none is written down under that id                   exit 2
    ├── RefusedError          refused        looked, and the move must not start; nothing was touched    exit 3
    │   ├── GuestNotFound     guest-not-found
    │   ├── GuestAmbiguous    guest-ambiguous    two guests of that name
    │   ├── GuestNotRunning   guest-not-running
    │   ├── GuestBusy         guest-busy         a migration of it is already under way
    │   ├── SameHost          same-host
    │   ├── DestinationTaken  destination-taken  the destination already has a guest of that name
    │   ├── LeaseHeld         lease-held         another process leads that migration
    │   └── Unsupported       unsupported        this driver or this hypervisor cannot do that
    ├── StoreError            store              migrations cannot be written down; nothing was touched  exit 3
    ├── LeaseLost             lease-lost         another process leads that migration now                exit 1
    ├── HostUnreachable       host-unreachable   no answer from a host before anything was touched       exit 6
    ├── MigrationFailed       migration-failed   it was tried; the guest runs on the source              exit 1
    │   ├── PrepareFailed     prepare-failed     the destination could not be made ready
    │   └── DeadlinePassed    deadline-passed    it did not converge in the time given
    ├── MigrationCancelled    cancelled          somebody asked; the guest runs on the source            exit 4
    ├── OutcomeAmbiguous      ambiguous          who runs the guest is not proven; a person must look    exit 5
    ├── HypervisorError       hypervisor         libvirt or QEMU answered with an error                  (wrapped)
    │   └── AnswerNotSeen     answer-not-seen    asked, and the answer never came: done or not is open   (wrapped)
    ├── CommandFailed         command-failed     a command on a host ended with a non-zero status        (wrapped)
    ├── PkiError              pki                the CA or a certificate cannot be used; nothing half-done    exit 1
    ├── HostSetupError        host-setup         a host cannot be made ready or put back; nothing half-done   exit 1
    └── LabError              lab                the lab cannot do that                                  exit 1

What may live here: error types and their texts; no I/O, no import from the rest of Segue.
An error says three things: what happened (`message`), where the guest is now (`guest_at`), what to do (`hint`).
"(wrapped)" errors come from the edges; the engine turns them into one of the others, with the original as ``__cause__``.
"""

from __future__ import annotations

from typing import ClassVar, Final


class SegueError(Exception):
    """Base of the tree: one sentence of what happened, and what a person can do about it.

    Args:
        message: one sentence, capital letter, full stop.
        guest_at: where the guest is now, as a clause ("it runs on alpha"); empty where no guest is concerned.
        hint: what to do next, as an imperative sentence; empty where there is nothing to do.
        quotes: what hypervisors and their logs said, unchanged, each with whose it is.
    """

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, guest_at: str = "", hint: str = "", quotes: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.message: Final = message
        self.guest_at: Final = guest_at
        self.hint: Final = hint
        self.quotes: Final = quotes

    def __str__(self) -> str:
        """All that is known, as one paragraph: message, the guest's place, the hint."""
        place = f"The guest: {self.guest_at}." if self.guest_at else ""
        return " ".join(part for part in (self.message, place, self.hint) if part)


class UsageError(SegueError):
    """The words of the call are wrong; nothing was touched."""

    code = "usage"
    exit_code = 2


class ConfigError(UsageError):
    """segue.toml cannot be read or does not mean anything; nothing was touched."""

    code = "config"


class RefusedError(SegueError):
    """Both hosts were looked at and the move must not start; nothing was touched, the guest is where it was."""

    code = "refused"
    exit_code = 3


class GuestNotFound(RefusedError):
    """No guest of that name on the host or hosts that were asked."""

    code = "guest-not-found"


class GuestAmbiguous(RefusedError):
    """More than one guest answers to that name."""

    code = "guest-ambiguous"


class GuestNotRunning(RefusedError):
    """The guest exists and does not run, so there is nothing to move live."""

    code = "guest-not-running"


class GuestBusy(RefusedError):
    """A migration or another long job of this guest is already under way."""

    code = "guest-busy"


class SameHost(RefusedError):
    """Source and destination are one host."""

    code = "same-host"


class DestinationTaken(RefusedError):
    """The destination already has a guest of that name."""

    code = "destination-taken"


class Unsupported(RefusedError):
    """This driver, or the hypervisor it talks to, cannot do what was asked; the message names what can."""

    code = "unsupported"


class HostUnreachable(SegueError):
    """A host did not answer before anything was touched.

    Args:
        host: the name or the address that was tried.
    """

    code = "host-unreachable"
    exit_code = 6

    def __init__(self, message: str, *, host: str, guest_at: str = "", hint: str = "", quotes: tuple[str, ...] = ()) -> None:
        super().__init__(message, guest_at=guest_at, hint=hint, quotes=quotes)
        self.host: Final = host


class MigrationFailed(SegueError):
    """It was tried and did not succeed; evidence of both hosts says the guest runs on the source."""

    code = "migration-failed"


class PrepareFailed(MigrationFailed):
    """The destination could not be made ready; the source was not touched.

    Args:
        host: the host whose hypervisor said why; empty where Segue itself says it.
        raw: its own words, unchanged.
    """

    code = "prepare-failed"

    def __init__(self, message: str, *, guest_at: str = "", hint: str = "", host: str = "", raw: str = "") -> None:
        super().__init__(message, guest_at=guest_at, hint=hint)
        self.host: Final = host
        self.raw: Final = raw


class DeadlinePassed(MigrationFailed):
    """The migration did not converge in the time given and was cancelled."""

    code = "deadline-passed"


class MigrationCancelled(SegueError):
    """Somebody asked for it; evidence of both hosts says the guest runs on the source and nowhere else."""

    code = "cancelled"
    exit_code = 4


class OutcomeAmbiguous(SegueError):
    """Who runs the guest is not proven; Segue touched nothing further and a person must look."""

    code = "ambiguous"
    exit_code = 5


class HypervisorError(SegueError):
    """libvirt or QEMU answered with an error.

    Args:
        host: the host whose hypervisor said it.
        raw: its own words, unchanged.
        number: its own code (libvirt's error number, QMP's class), for tables; never parsed from text.
        area: which part of libvirt says it (virErrorDomain).
    """

    code = "hypervisor"

    def __init__(self, message: str, *, host: str, raw: str = "", number: int | str = "", area: int = 0, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.host: Final = host
        self.raw: Final = raw
        self.number: Final = number
        self.area: Final = area


class AnswerNotSeen(HypervisorError):
    """The hypervisor was asked and its answer never came: it may or may not have done it."""

    code = "answer-not-seen"


class CommandFailed(SegueError):
    """A command that Segue ran on a host ended with a non-zero status.

    Args:
        host: where it ran.
        argv: the words of the command.
        status: its exit status.
        stderr: what it said, unchanged.
    """

    code = "command-failed"

    def __init__(self, *, host: str, argv: tuple[str, ...], status: int, stderr: str) -> None:
        said = stderr.strip().splitlines()
        super().__init__(f"{argv[0]} on {host} ended with status {status}{': ' + said[-1] if said else ''}.")
        self.host: Final = host
        self.argv: Final = argv
        self.status: Final = status
        self.stderr: Final = stderr


class StoreError(SegueError):
    """The database in which migrations are written down cannot be used. Before a migration began, nothing was touched."""

    code = "store"
    exit_code = 3


class MigrationNotFound(UsageError):
    """No migration of that id is written down, or several begin so."""

    code = "migration-not-found"


class LeaseHeld(RefusedError):
    """Another process leads this migration.

    Args:
        holder: that process, for people.
    """

    code = "lease-held"

    def __init__(self, message: str, *, holder: str, guest_at: str = "", hint: str = "") -> None:
        super().__init__(message, guest_at=guest_at, hint=hint)
        self.holder: Final = holder


class LeaseLost(SegueError):
    """Another process has taken this migration over; this one acts no more."""

    code = "lease-lost"


class PkiError(SegueError):
    """The CA, a key or a certificate cannot be used, or cannot be put where it belongs; nothing was done by halves."""

    code = "pki"


class HostSetupError(SegueError):
    """A host cannot be made ready for guests, or put back; what was done was taken back, or the message says what was not."""

    code = "host-setup"


class LabError(SegueError):
    """The lab cannot do what was asked; the message says why, the hint what would help."""

    code = "lab"
