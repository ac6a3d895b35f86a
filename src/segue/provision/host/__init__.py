"""A host made ready to give and take guests, looked at, and put back: what `segue.core.preparing` decides, done over a shell.

What may live here: facts read off a host (`look`), steps carried out and taken back (`carry`, `journal`), and what only trying
shows (`proofs`).
"""
