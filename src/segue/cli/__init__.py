"""The command line: one file a verb; render.py holds the looks, exit_codes.py the codes."""
