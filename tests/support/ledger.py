"""An action log that keeps what it is told, for driving attempts without an engine."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from segue.core.model import Progress
from segue.core.phases import State
from segue.core.record import Action, Settings, Step


class Ledger:
    """Every action that was surrounded, and how it ended, in order."""

    def __init__(self) -> None:
        self.lines: list[tuple[Action, Step]] = []

    @contextlib.asynccontextmanager
    async def acting(self, action: Action, detail: str = "") -> AsyncIterator[None]:  # noqa: ARG002
        self.lines.append((action, Step.INTENT))
        try:
            yield
        except BaseException:
            self.lines.append((action, Step.FAILED))
            raise
        self.lines.append((action, Step.DONE))


class Unwritten(Ledger):
    """The journal of an engine that writes nothing down; what it would have written is there to be looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.told_to_run = False
        self.states: list[State] = []
        self.samples: list[Progress] = []

    @contextlib.asynccontextmanager
    async def acting(self, action: Action, detail: str = "") -> AsyncIterator[None]:
        self.told_to_run = self.told_to_run or action is Action.RESUME_DESTINATION
        async with super().acting(action, detail):
            yield

    def entered(self, state: State) -> None:
        self.states.append(state)

    def sample(self, progress: Progress) -> None:
        self.samples.append(progress)

    def note(self, text: str) -> None:
        """Not kept."""

    def settings(self, settings: Settings) -> None:
        """Not kept."""
