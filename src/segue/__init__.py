"""Moves running QEMU/KVM guests between hosts."""
