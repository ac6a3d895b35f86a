"""Moves drawn at random: guests, links, options, and whatever a person or the world does meanwhile. `./run soak` plays them.

What may live here: the drawing, the play, and what may never come of it. Deaths at chosen moments are those of `tests.faults`.
"""
