"""The command line: every command is a few lines over what the packages below offer."""
