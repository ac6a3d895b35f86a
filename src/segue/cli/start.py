"""The first lines of the program ``segue``, before anything of it is loaded.

To load it takes a tenth of a second and more. Nothing has begun by then, so Ctrl-C ends it as it ends any program: Python's own
way is a page of traceback. What may live here: what must come before everything else.
"""

from __future__ import annotations

import signal


def main() -> None:
    """Load the command line, and run it."""
    heeded = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # else whoever started it wants Ctrl-C to be ignored
    if heeded:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from segue.cli.main import main as run

    if heeded:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()
