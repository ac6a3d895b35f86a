"""Runs migrations: finds the guest, drives one attempt through its phases, steers it, and proves who owns the guest."""
