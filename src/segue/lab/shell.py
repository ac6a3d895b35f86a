"""Runs a command on this machine with a deadline. What may live here: `run` and its result."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from segue.errors import CommandFailed, LabError

LAST_WORDS_S: Final = 2.0
LAST_LINES: Final = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """How a command ended."""

    status: int
    stdout: str
    stderr: str


async def run(
    argv: Sequence[str],
    *,
    inside: Sequence[str] = (),
    stdin: str | None = None,
    check: bool = True,
    deadline_s: float = 30.0,
    host: str = "this machine",
    pass_fds: Sequence[int] = (),
) -> Completed:
    """Run a command to its end.

    Args:
        argv: its words; no shell sees them.
        inside: words before them that bring it into a host; errors do not tell them.
        stdin: what it reads; nothing when not given.
        check: raise when its status is not zero.
        deadline_s: then it is killed.
        host: where it runs, for the error.
        pass_fds: descriptors of ours that it inherits.

    Raises:
        CommandFailed: with its own words.
        LabError: not there, or not done by the deadline.
    """
    pipe = asyncio.subprocess.PIPE
    try:
        process = await asyncio.create_subprocess_exec(
            *inside,
            *argv,
            stdin=asyncio.subprocess.DEVNULL if stdin is None else pipe,
            stdout=pipe,
            stderr=pipe,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
            pass_fds=tuple(pass_fds),
        )
    except FileNotFoundError as error:
        raise LabError(f"{[*inside, *argv][0]} is not installed.", hint="'./run setup' installs what the lab needs.") from error
    saying = asyncio.create_task(process.communicate(None if stdin is None else stdin.encode()))
    try:
        if not (await asyncio.wait({saying}, timeout=deadline_s))[0]:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            said = await _last_words(saying)
            raise LabError(f"{' '.join(argv)} on {host} was not done after {deadline_s:g} s.{said}")
        stdout, stderr = await saying
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        saying.cancel()
        await asyncio.gather(saying, return_exceptions=True)
    done = Completed(
        status=process.returncode or 0, stdout=stdout.decode(errors="replace"), stderr=stderr.decode(errors="replace")
    )
    if check and done.status:
        raise CommandFailed(host=host, argv=tuple(argv), status=done.status, stderr=done.stderr)
    return done


async def _last_words(saying: asyncio.Task[tuple[bytes, bytes]]) -> str:
    """What a command had said that was killed, as a sentence: it tells where it hung. Its children may keep its output open."""
    if not (await asyncio.wait({saying}, timeout=LAST_WORDS_S))[0]:
        return ""
    last = b"".join(saying.result()).decode(errors="replace").splitlines()[-LAST_LINES:]
    return f" Last it said: {' | '.join(last)}" if last else " It had said nothing."
