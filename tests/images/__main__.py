"""``./run images``: plays the commands of docs/guide/from-the-recipe.md on two Debian releases, and writes the answers there.

The page is its own script. In its console blocks every line that begins with ``$`` is typed, in order, and what stands below it
is replaced by what was answered. A line that ends with ``# exit status N`` must end so, and every other with 0; when one does
not, the page stays as it was, and at the end all of those are told. Between ``segue lab run -- bash`` and ``exit`` commands are
typed on the lab's admin host.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/guide/from-the-recipe.md"
LAB = "recipe"
COMMAND_S = 900
"""For one command: the first may build two trees."""
BLOCK = re.compile(r"(?<=```console\n).*?(?=^```$)", re.DOTALL | re.MULTILINE)
PROGRESS = re.compile(r"^segue: (begin|prepare|perform|switchover|finish|confirm|verify)(:.*)?\n", re.MULTILINE)


class Terminal:
    """Where commands are typed: on this machine, or on the lab's admin host. `wrong` has those that ended as they should not."""

    def __init__(self) -> None:
        self._inside = False
        self.wrong: list[str] = []

    def answer(self, command: str) -> str:
        """Type a command, and take what comes."""
        print(f"$ {command}", file=sys.stderr, flush=True)
        if command in ("segue lab run -- bash", "exit"):
            self._inside = command != "exit"
            return ""
        env = {**os.environ, "SEGUE_LAB": LAB, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        argv = ["bash", "-c", command]
        done = subprocess.run(
            ["segue", "lab", "run", "--", *argv] if self._inside else argv,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMAND_S,
            check=False,
        )
        told = re.search(r"# exit status (\d+)$", command)
        if done.returncode != (int(told[1]) if told else 0):
            self.wrong.append(f"'{command}' ended with status {done.returncode}")
        print(done.stdout, end="", file=sys.stderr, flush=True)
        lines = PROGRESS.sub("", done.stdout).splitlines()
        return "".join(f"{line.rstrip()}\n" for line in lines if line.strip())


def main() -> None:
    """Play the page."""
    raw = argparse.RawDescriptionHelpFormatter
    argparse.ArgumentParser(prog="./run images", description=__doc__, formatter_class=raw).parse_args()
    segue = str(Path(sys.executable).with_name("segue"))
    terminal = Terminal()

    def played(block: re.Match[str]) -> str:
        commands = [line.removeprefix("$ ") for line in block[0].splitlines() if line.startswith("$ ")]
        return "".join(f"$ {command}\n{terminal.answer(command)}" for command in commands)

    subprocess.run([segue, "lab", "down", "--name", LAB], check=True)  # of a run that was killed
    try:
        page = BLOCK.sub(played, PAGE.read_text(encoding="utf-8"))
        if terminal.wrong:
            raise SystemExit("\n".join(terminal.wrong))
        PAGE.write_text(page, encoding="utf-8")
    finally:
        subprocess.run([segue, "lab", "down", "--name", LAB], check=True)


if __name__ == "__main__":
    main()
