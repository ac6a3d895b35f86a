"""Guests as people start them, by every transport, there and back: the table, how it is played, and the page."""
