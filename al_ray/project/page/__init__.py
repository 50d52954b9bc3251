"""Page: people label a project's texts in a browser on the same machine."""
