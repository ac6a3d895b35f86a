"""Many questions to one host in one command: a login costs a round trip and a process, whatever is asked in it.

Each question is a constant POSIX script with its words as arguments. What may live here: putting them together, and their answers
apart again; what they mean is known by who asks.
"""

from __future__ import annotations

import base64
import binascii
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from segue.errors import HypervisorError
from segue.hosts.shell import HostShell


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question.

    Attributes:
        name: by which its answer is found.
        script: a POSIX script, constant; it must not read its standard input.
        words: its ``$1``, ``$2`` …, which may hold anything but NUL.
    """

    name: str
    script: str
    words: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """How a question ended.

    Attributes:
        status: the script's exit status.
        text: what it wrote, to either stream.
    """

    status: int
    text: str


async def ask_all(shell: HostShell, questions: Sequence[Question], *, deadline_s: float) -> Mapping[str, Answer]:
    """Ask all at once, in one command; they run one after the other there.

    Raises:
        HostUnreachable: the connection is lost.
        AnswerNotSeen: not all were answered by the deadline.
        HypervisorError: what came is no answer.
    """
    if not questions:
        return {}
    commands = (shlex.join(["sh", "-c", one.script, "sh", *one.words]) for one in questions)
    lines = (f"{{ {command} 2>&1 </dev/null; status=$?; echo; echo $status; }} | base64 -w 0; echo" for command in commands)
    done = await shell.run(["sh", "-c", "\n".join(lines)], deadline_s=deadline_s)
    answers = done.stdout.split(b"\n")[:-1]
    try:
        return {one.name: _answer(line) for one, line in zip(questions, answers, strict=True)}
    except (ValueError, binascii.Error) as error:
        raise HypervisorError(
            f"{shell.name} answers questions with something that is no answer.", host=shell.name, raw=done.complaint
        ) from error


def _answer(line: bytes) -> Answer:
    text, _, status = os.fsdecode(base64.b64decode(line, validate=True)).rstrip("\n").rpartition("\n")
    return Answer(status=int(status), text=text.removesuffix("\n"))
