"""Reach a host: run a command there, read a file, connect to one of its unix sockets.

Two ways: `local` is this machine, `ssh` any other. Both keep the promises of `shell.HostShell`, so that nobody above has to know
which one it is. What may live here: getting words and bytes to a host and back. What the words mean is the drivers' business.
"""

from segue.hosts.local import LocalShell
from segue.hosts.reach import load, reach, way_in
from segue.hosts.shell import Completed, HostShell
from segue.hosts.ssh import SshShell, SshTarget

__all__ = ["Completed", "HostShell", "LocalShell", "SshShell", "SshTarget", "load", "reach", "way_in"]
