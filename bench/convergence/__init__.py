"""What `bench/converge.py` is made of: the grid, the playing of it, the table and the picture."""
