"""Steps carried out on a host and taken back.

Each is written down on the host before it is done (`Journal`), with what takes it back. When one fails, or somebody interrupts,
those of the same time are taken back at once, last first. When the connection is lost, or this process dies, whoever comes next
finds them written there.

What may live here: what goes through a `HostShell` and changes something.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Final

from segue.core.pki import DIRECTORIES, FILES
from segue.core.steps import Certificates, Command, File, Install, Step, Taken, Written, intent, read_lines
from segue.errors import AnswerNotSeen, CommandFailed, HostSetupError, HostUnreachable, SegueError
from segue.hosts import HostShell
from segue.hosts.shell import checked
from segue.provision.host import look

COMMAND_S: Final = 120.0
PACKAGES_S: Final = 1800.0
"""For packages that come over a slow line; from a mirror nearby it takes a minute."""
HOME: Final = "/etc/segue/host"
JOURNAL: Final = f"{HOME}/journal"
_APT: Final = ("env", "DEBIAN_FRONTEND=noninteractive", "NEEDRESTART_SUSPEND=1", "apt-get", "-q", "-y")
_CALM: Final = ("-o", "DPkg::Lock::Timeout=300", "-o", "Dpkg::Use-Pty=0")

# $1 the journal; a line on stdin, which is on disk when this ends.
_APPEND: Final = 'umask 077; mkdir -p -- "${1%/*}" && cat >>"$1" && sync -- "$1"'
# $1 the file, $2 the copy: owner, mode and times with it. Prints the directories that are missing.
_BACK_UP: Final = r"""
[ ! -e "$1" ] || { cp -a -- "$1" "$2" && sync -- "$2" && echo there; }
"""
# $1 the file, $2 how long it is. A file that is there keeps its owner and mode; directories that are not are made, and told.
_PUT: Final = r"""
set -e
umask 022
new=$1.segue-new
trap 'rm -f -- "$new"' EXIT
parent=${1%/*}
[ -d "$parent" ] || { mkdir -- "$parent"; echo "made $parent"; }
if [ -e "$1" ]; then cp -a -- "$1" "$new"; fi
cat >"$new"
[ "$(wc -c <"$new")" -eq "$2" ]
sync -- "$new"
mv -f -- "$new" "$1"
"""
# $1 the file, $2 its sum as it was left, $3 the copy or nothing, $4 a directory that was made for it or nothing.
_PUT_BACK: Final = r"""
if [ -n "$2" ] && [ "$(sha256sum <"$1" 2>/dev/null)" != "$2  -" ] && { [ -z "$3" ] || ! cmp -s -- "$1" "$3"; }; then
  [ -e "$1" ] || [ -n "$3" ] || exit 0
  echo changed; exit 0
fi
if [ -n "$3" ]; then cp -a -- "$3" "$1.segue-new" && mv -f -- "$1.segue-new" "$1"; else rm -f -- "$1"; fi || exit
[ -z "$4" ] || rmdir -- "$4" 2>/dev/null || :
"""
_REMOVE: Final = (
    'n=$1; shift; for one; do if [ "$n" -gt 0 ]; then rm -f -- "$one"; n=$((n-1)); else rmdir -- "$one" 2>/dev/null; fi; done; :'
)

Say = Callable[[str], None]
Install_certificates = Callable[[], Awaitable[object]]


class Journal:
    """What is written on one host of how it was prepared; see `segue.core.steps`.

    Args:
        shell: on it.
    """

    def __init__(self, shell: HostShell) -> None:
        self._shell = shell

    async def read(self) -> Written:
        """All of it; nothing where the host was never prepared.

        Raises:
            HostSetupError: it makes no sense.
        """
        done = await self._shell.run(["sh", "-c", '[ ! -e "$1" ] || cat -- "$1"', "sh", JOURNAL], deadline_s=COMMAND_S)
        text = checked(self._shell.name, ["cat", JOURNAL], done).stdout.decode(errors="replace")
        try:
            return read_lines(text)
        except (ValueError, KeyError) as error:
            raise HostSetupError(
                f"{JOURNAL} on {self._shell.name} makes no sense: {error}.", hint="Its files beside it are what was there before."
            ) from error

    async def write(self, line: str) -> None:
        """Append a line, on disk when this returns.

        Raises:
            CommandFailed: there is no room, or it is read-only.
        """
        argv = ["sh", "-c", _APPEND, "sh", JOURNAL]
        checked(
            self._shell.name, ["write", JOURNAL], await self._shell.run(argv, stdin=f"{line}\n".encode(), deadline_s=COMMAND_S)
        )

    async def forget(self) -> None:
        """Everything was taken back: nothing of Segue is left here."""
        script = 'rm -rf -- "$1"; rmdir -- "${1%/*}" 2>/dev/null || :'
        await self._shell.run(["sh", "-c", script, "sh", HOME], deadline_s=COMMAND_S)


class Carrier:
    """Does steps on one host, and takes them back.

    Args:
        shell: on it, as root.
        certificates: issues and installs them.
        say: is told each step that is begun.
    """

    def __init__(self, shell: HostShell, *, certificates: Install_certificates, say: Say) -> None:
        self._shell = shell
        self._certificates = certificates
        self._say = say
        self.journal = Journal(shell)

    @contextlib.asynccontextmanager
    async def together(self) -> AsyncIterator[None]:
        """What is done in this context stays, if all of it succeeds; else it is taken back, and the error says so.

        Raises:
            HostSetupError: it failed and was taken back, or what could not be is named.
            HostUnreachable, AnswerNotSeen: before anything was done.
        """
        try:
            await self.journal.write(f'{{"begin": {int(time.time() * 1000)}}}')
        except CommandFailed as error:
            raise HostSetupError(
                f"Nothing can be written to {HOME} on {self._shell.name}: {_last(error.stderr)}. Nothing was changed.",
                hint="It needs root's rights, and some room on a disk that can be written.",
            ) from error
        try:
            yield
            await self.journal.write(f'{{"end": {int(time.time() * 1000)}}}')
        except (HostUnreachable, AnswerNotSeen) as error:
            raise self._left_behind(error.message) from error
        except asyncio.CancelledError:
            self._say("interrupted: taking back what was done")
            await self.take_back_last()
            raise
        except SegueError as error:
            why = _last(error.stderr) if isinstance(error, CommandFailed) else error.message.rstrip(".")
            try:
                left = await self.take_back_last()
            except (HostUnreachable, AnswerNotSeen) as lost:
                raise self._left_behind(f"{why}. {lost.message}") from error
            if left:
                raise HostSetupError(
                    f"{why}. Not all could be taken back on {self._shell.name}: {'; '.join(left)}.", hint=error.hint
                ) from error
            raise HostSetupError(f"{why}. All was taken back: {self._shell.name} is as it was.", hint=error.hint) from error

    def _left_behind(self, why: str) -> HostSetupError:
        return HostSetupError(
            f"{why} What was done to {self._shell.name} by then is written there, and was not taken back.",
            hint=f"When it answers, 'segue host undo {self._shell.name}' takes it back; preparing it again does so first.",
        )

    async def carry(self, steps: Sequence[Step]) -> None:
        """Do steps, one after the other. Within `together`.

        Raises:
            SegueError: one failed; those before it are done.
        """
        number = (await self.journal.read()).next
        for step in steps:
            match step:
                case Install():
                    await self._install(number, step)
                case File():
                    await self._file(number, step)
                case Certificates():
                    self._say("certificates")
                    there = await look.present(self._shell, DIRECTORIES)
                    await self.journal.write(intent(number, step, made=[one for one in DIRECTORIES if one not in there]))
                    await self._certificates()
                    await self._done(number)
                case Command():
                    await self._command(number, step)
            number += 1

    async def _done(self, number: int, **facts: object) -> None:
        await self.journal.write(_line({"done": number, **facts}))

    async def _install(self, number: int, step: Install) -> None:
        self._say(f"install {' '.join(step.packages)}")
        before = await look.installed(self._shell)
        await self.journal.write(intent(number, step, before=sorted(before)))
        argv = [*_APT, *_CALM, "--no-install-recommends", "install", *step.packages]
        if (await self._shell.run(argv, deadline_s=PACKAGES_S)).status:  # its lists may be old, or were never read
            self._say("apt reads the archive's lists again")
            await self._shell.run([*_APT, *_CALM, "update"], deadline_s=PACKAGES_S)
            again = await self._shell.run(argv, deadline_s=PACKAGES_S)
            if again.status:
                raise HostSetupError(
                    f"Packages cannot be installed on {self._shell.name}: {_last(again.complaint)}.",
                    hint=f"'apt-get install {' '.join(step.packages)}' must work there.",
                )
        await self._done(number, came=sorted(await look.installed(self._shell) - before))

    async def _file(self, number: int, step: File) -> None:
        self._say(step.path)
        copy = f"{HOME}/{number}"
        done = await self._shell.run(["sh", "-c", _BACK_UP, "sh", step.path, copy], deadline_s=COMMAND_S)
        there = checked(self._shell.name, ["cp", step.path, copy], done).stdout.decode()
        content = step.after.encode()
        await self.journal.write(intent(number, step, copy=copy if "there" in there else "", sum=_sum(content)))
        done = await self._shell.run(["sh", "-c", _PUT, "sh", step.path, str(len(content))], stdin=content, deadline_s=COMMAND_S)
        made = checked(self._shell.name, ["write", step.path], done).stdout.decode()
        await self._done(number, made=made.removeprefix("made ").strip())

    async def _command(self, number: int, step: Command) -> None:
        await self.journal.write(intent(number, step))
        if step.argv:
            self._say(step.title)
            await self._run(step.argv)
        await self._done(number)

    async def _run(self, argv: Sequence[str]) -> None:
        done = await self._shell.run(argv, deadline_s=COMMAND_S)
        if done.status:
            words = " ".join(argv[4:] if argv[:2] == ("sh", "-c") else argv)
            why = await self._why(argv) or _last(done.complaint) or f"status {done.status}"
            raise HostSetupError(f"'{words}' on {self._shell.name} failed: {why}.")

    async def _why(self, argv: Sequence[str]) -> str:
        """What the unit itself said: systemctl only tells where to look."""
        if argv[0] != "systemctl":
            return ""
        ask = ["journalctl", "--no-pager", "--quiet", "--output=cat", "--lines=3", f"--unit={argv[-1]}"]
        said = await self._shell.run(ask, deadline_s=COMMAND_S)
        return "; ".join(said.stdout.decode(errors="replace").splitlines()).rstrip(".")

    # --- back

    async def take_back_last(self) -> list[str]:
        """Take back what the last time did; what could not be, in words. Where it was the first, nothing of Segue is left."""
        written = await self.journal.read()
        left = await self._take_back([one for one in written.taken if one.number >= written.first])
        if not left and all(one.number >= written.first for one in written.taken):
            await self.journal.forget()
        return left

    async def take_back_all(self) -> list[str]:
        """Take back everything that was ever done here; what could not be, in words. When all was, nothing of Segue is left."""
        written = await self.journal.read()
        left = await self._take_back(written.taken)
        if not left:
            await self.journal.forget()
        return left

    async def _take_back(self, taken: Sequence[Taken]) -> list[str]:
        left = []
        for one in reversed(taken):
            try:
                why = await self._undo(one)
            except (HostSetupError, CommandFailed) as error:
                why = error.message.rstrip(".")
            if why:
                left.append(why)
            else:
                await self._undone(one.number)
        return left

    async def _undone(self, number: int) -> None:
        with contextlib.suppress(CommandFailed):  # a full disk: taking it back twice is harmless
            await self.journal.write(_line({"undone": number}))

    async def _undo(self, one: Taken) -> str:
        """Take one step back; why it was not, where it must not be."""
        match one.step:
            case Install():
                return await self._purge(one)
            case File(path=path):
                self._say(f"back: {path}")
                words = [str(one.facts.get(name, "")) for name in ("sum", "copy", "made")]
                done = await self._shell.run(["sh", "-c", _PUT_BACK, "sh", path, *words], deadline_s=COMMAND_S)
                said = checked(self._shell.name, ["restore", path], done).stdout.decode()
                return (
                    f"{path} was changed by somebody else since, and was left; {words[1] or 'nothing'} was there before"
                    if said
                    else ""
                )
            case Certificates():
                self._say("back: certificates")
                words = [str(len(FILES)), *FILES, *reversed(_strings(one.facts["made"]))]
                checked(
                    self._shell.name, ["rm"], await self._shell.run(["sh", "-c", _REMOVE, "sh", *words], deadline_s=COMMAND_S)
                )
            case Command(undo=undo):
                if undo:
                    self._say(f"back: {' '.join(undo) if undo[0] != 'sh' else one.step.title or 'the daemon'}")
                    await self._run(undo)
        return ""

    async def _purge(self, one: Taken) -> str:
        now = await look.installed(self._shell)
        came = one.facts.get("came")
        before = one.facts.get("before")
        names = sorted(now & frozenset(_strings(came)) if came is not None else now - frozenset(_strings(before)))
        if not names:
            return ""
        self._say(f"back: purge {len(names)} packages")
        done = await self._shell.run([*_APT, *_CALM, "purge", *names], deadline_s=PACKAGES_S)
        return f"apt-get purge failed: {_last(done.complaint)}" if done.status else ""


def _strings(value: object) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list) else []


def _line(words: Mapping[str, object]) -> str:
    import json

    return json.dumps(words)


def _sum(content: bytes) -> str:
    import hashlib

    return hashlib.sha256(content).hexdigest()


def _last(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else "it said nothing"
