"""Guests that libvirt runs. This package is the only importer of libvirt.

It imports nothing by itself: `client` is a process of its own, which a migration waits for, and needs little of it.
"""
