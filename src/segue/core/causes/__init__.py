"""Why a hypervisor refused or failed, in people's words.

`words` has the causes, `codes` what the numbers of libvirt and QMP mean, `clues` the words that tell causes of one number apart,
`explain` puts a sentence together. Nothing here decides what is done about an error: only what a person reads.
"""

from segue.core.causes.codes import HALF
from segue.core.causes.explain import Explained, Quote, Scene, explain, explained, telling
from segue.core.causes.words import Cause

__all__ = ["HALF", "Cause", "Explained", "Quote", "Scene", "explain", "explained", "telling"]
