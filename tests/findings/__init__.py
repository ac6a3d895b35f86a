"""Every finding of preflight that a lab can provoke, provoked; and what happens to who goes past it all the same."""
