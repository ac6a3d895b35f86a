"""An in-memory hypervisor with a dirty-page model, held to the same contract suite as the real drivers.

It is for tests of the engine and for rehearsing decisions: no process, no network, and time that passes only when it is
looked at.
"""

from segue.drivers.simulated.driver import SimulatedDriver
from segue.drivers.simulated.world import SimGuest, World

__all__ = ["SimGuest", "SimulatedDriver", "World"]
