"""MLflow as a view of the records, which can be rebuilt from them at any time."""
