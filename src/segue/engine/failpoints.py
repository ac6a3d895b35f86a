"""Moments at which a test may end, stop or hold this process, by name: ``$SEGUE_FAILPOINT``.

    SEGUE_FAILPOINT=resume-destination.intended=kill segue migrate web1 beta

A name is an action of the journal or a state, and a moment (`NAMES` has all of them); a deed is ``kill`` (SIGKILL), ``stop``
(SIGSTOP) or ``hold:PATH``, which makes PATH and goes on when it is gone. Several are separated by commas. Without the variable
nothing of this costs anything. What may live here: the names, and `reach`.
"""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Final

from segue.core.phases import State
from segue.core.record import Action

VARIABLE: Final = "SEGUE_FAILPOINT"
_HOLD_PAUSE_S: Final = 0.01

ACTION_MOMENTS: Final = ("wanted", "intended", "acted")
"""Before the intent is written; after it is written and before it is done; after it is done and before that is written."""
STATE_MOMENTS: Final = ("entered",)
"""After a state was entered, and before anything is done in it."""

NAMES: Final = (
    *(f"{action}.{moment}" for action in Action for moment in ACTION_MOMENTS),
    *(f"{state}.{moment}" for state in State for moment in STATE_MOMENTS),
)


async def reach(name: str) -> None:
    """Do what the environment says is to be done at that moment."""
    if VARIABLE not in os.environ:
        return
    for point in os.environ[VARIABLE].split(","):
        where, _, deed = point.partition("=")
        if where == name:
            await _do(deed)


async def _do(deed: str) -> None:
    if deed.startswith("hold:"):
        path = Path(deed.removeprefix("hold:"))
        path.touch()
        while path.exists():  # noqa: ASYNC110  # another process removes it
            await asyncio.sleep(_HOLD_PAUSE_S)
        return
    os.kill(os.getpid(), {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}[deed])
