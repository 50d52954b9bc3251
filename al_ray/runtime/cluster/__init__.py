"""Ray itself: finding, starting, watching and leaving it."""
