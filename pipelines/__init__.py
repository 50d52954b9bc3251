"""Entry points: which work, from the command line."""
