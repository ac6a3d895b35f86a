"""Runs a command on this machine with a deadline. What may live here: `run` and its result."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass

from segue.errors import CommandFailed, LabError


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
    try:
        async with asyncio.timeout(deadline_s):
            stdout, stderr = await process.communicate(None if stdin is None else stdin.encode())
    except TimeoutError:
        raise LabError(f"{' '.join(argv)} on {host} was not done after {deadline_s:g} s.") from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    done = Completed(
        status=process.returncode or 0, stdout=stdout.decode(errors="replace"), stderr=stderr.decode(errors="replace")
    )
    if check and done.status:
        raise CommandFailed(host=host, argv=tuple(argv), status=done.status, stderr=done.stderr)
    return done
