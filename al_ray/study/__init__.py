"""Studies: what a cell is, the file that lists them, the plan, and running it."""
