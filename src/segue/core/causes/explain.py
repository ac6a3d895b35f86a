"""From what a hypervisor said, and what both hosts wrote, to one sentence with its fix.

What may live here: choosing by words (`clues`) among the causes that a number leaves (`codes`), and the sentence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from segue.core.causes.clues import CLUES
from segue.core.causes.codes import ANY, BY_DOMAIN, DOMAINS, LIBVIRT, QMP, STDERR, Code
from segue.core.causes.words import WORDS, Cause
from segue.errors import AnswerNotSeen, HypervisorError, PrepareFailed, SegueError

MOST_QUOTED: Final = 6
"""Lines of a log that are shown: QEMU writes one to three when it fails, and a log may repeat one for ever."""
# What libvirt and QEMU write in every migration, also in one that succeeds (libvirt, qemu_domain.c, qemuDomainLogAppendMessage).
_USUAL: Final = (
    "starting up libvirt version",
    "shutting down, reason=",
    "initiating migration",
    "is tainted:",
    "terminating on signal",
    "char device redirected",
)
_COMMAND_LINE: Final = ("LC_ALL=", "PATH=", "HOME=", "USER=", "XDG_", "TMPDIR=", "/usr/", "-", "QEMU_AUDIO_DRV=")


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """One line that a host has of it.

    Attributes:
        host: whose.
        where: what it stands in: a path, or who says it.
        text: unchanged.
        silent: it could not be read, and `text` says why.
    """

    host: str
    where: str
    text: str
    silent: bool = False

    def __str__(self) -> str:
        return f"{self.host}, {self.where}: {self.text}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Who is who: names of guest, source and destination; no source where only a connection was tried."""

    guest: str
    here: str
    there: str

    def other(self, host: str) -> str:
        """The other host."""
        return self.here if host == self.there else self.there


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """What a person reads.

    Attributes:
        cause: which.
        sentence: what happened.
        fix: what to do.
        quotes: what was said, by whom, unchanged.
    """

    cause: Cause
    sentence: str
    fix: str
    quotes: tuple[str, ...]


def code_of(error: HypervisorError) -> Code | None:
    """What the table says of an error; ``None``: nothing."""
    return LIBVIRT.get(error.number) if isinstance(error.number, int) else QMP.get(error.number)


def said_by(error: HypervisorError) -> str:
    """Who says it, with its own number."""
    match error.number:
        case int(number):
            code = LIBVIRT.get(number)
            area = DOMAINS[error.area] if 0 <= error.area < len(DOMAINS) else f"area {error.area}"
            return f"libvirt ({code.name if code else f'error {number}'}, {area})"
        case name:
            return f"QEMU ({name})"


def telling(lines: Sequence[str]) -> list[str]:
    """The lines of a guest's log that are not in every log."""
    kept = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith(_COMMAND_LINE)]
    kept = [line for line in kept if not any(usual in line for usual in _USUAL)]
    return list(dict.fromkeys(kept))[-MOST_QUOTED:]


def hypervisors_words(error: BaseException | None) -> HypervisorError | None:
    """What a hypervisor said, in an error or in what it came from; ``None``: none did, and there is nothing to translate.

    Where a destination did not start, its own words are in the error that says so.
    """
    while error is not None:
        if isinstance(error, HypervisorError) and error.number and not isinstance(error, AnswerNotSeen):
            return error
        if isinstance(error, PrepareFailed) and error.raw:
            return HypervisorError(error.message, host=error.host, raw=error.raw, number=STDERR, hint=error.hint)
        error = error.__cause__
    return None


def explain(error: HypervisorError, quotes: Sequence[Quote], scene: Scene, *, among: frozenset[Cause] = ANY) -> Explained:
    """One sentence of why, joined from what was said and what both hosts wrote.

    Args:
        error: what the hypervisor said first.
        quotes: the telling lines of both hosts' logs.
        scene: names.
        among: what can be the cause, where the caller knows that.
    """
    code = code_of(error)
    shown = (*((Quote(host=error.host, where=said_by(error), text=error.raw),) if error.raw else ()), *quotes)
    heard = tuple(quote for quote in shown if not quote.silent)
    cause, host, it = Cause.UNKNOWN, error.host, ""
    if code is not None:
        cause = code.cause
        area = DOMAINS[error.area] if 0 <= error.area < len(DOMAINS) else ""
        left = code.among & among & BY_DOMAIN.get((error.number if isinstance(error.number, int) else -1, area), ANY)
        cause, host, it = next(_choices(left | {code.cause}, heard), (code.cause, error.host, ""))
    words = WORDS[cause]
    places = {
        "here": scene.here or "this machine",
        "pair": f" {scene.here} {scene.there}" if scene.here else "",
        "there": scene.there,
        "guest": scene.guest,
        "host": _whose(cause, host, scene),
        "it": it,
        "raw": error.raw.rstrip(".") or error.message.rstrip("."),
        "message": error.message,
    }
    places["peer"] = scene.other(places["host"])
    sentence = words.bare if words.bare and not it else words.what
    return Explained(
        cause=cause,
        sentence=sentence.format_map(places),
        fix=(error.hint if cause is Cause.HYPERVISOR else "") or words.fix.format_map(places),
        quotes=tuple(str(quote) for quote in shown),
    )


def _choices(left: frozenset[Cause], heard: Sequence[Quote]) -> Iterator[tuple[Cause, str, str]]:
    """The causes that words point at, the most telling first: which, on which host, and what is named."""
    for cause, pattern in CLUES:
        if cause in left:
            for quote in heard:
                if found := re.search(pattern, quote.text):
                    it = next((text for name, text in found.groupdict().items() if name.startswith("it") and text), "")
                    yield cause, quote.host, it.strip()


# Whose matter a cause is, where whoever says it is not always the one: the source's libvirt repeats what the destination's says.
_OF_DESTINATION: Final = frozenset(
    {
        Cause.DAEMON_REFUSED,
        Cause.DAEMON_SILENT,
        Cause.TLS_NAME,
        Cause.FILE_MISSING,
        Cause.FILE_FORBIDDEN,
        Cause.BRIDGE_MISSING,
        Cause.BRIDGE_FORBIDDEN,
        Cause.NETWORK_MISSING,
        Cause.HOOK,
        Cause.DEFINITION,
    }
)


def _whose(cause: Cause, host: str, scene: Scene) -> str:
    return scene.there if cause in _OF_DESTINATION and scene.there else host


def explained(error: SegueError, quotes: Sequence[Quote], scene: Scene) -> Explained | None:
    """The same for any error; ``None`` where no hypervisor said anything: then the error's own words are the best there are."""
    said = hypervisors_words(error)
    return explain(said, quotes, scene) if said is not None else None
