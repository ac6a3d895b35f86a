"""Two or more real hosts on this machine: namespaces, a libvirtd and an sshd each, an NFS server, links of a chosen rate.

People rehearse on it, and the tests and benches stand on it. `Lab.load` finds the one that is up.
"""

from segue.lab.lab import Lab, down, up

__all__ = ["Lab", "down", "up"]
