"""Statistics on arrays and frames, which know nothing of studies."""
