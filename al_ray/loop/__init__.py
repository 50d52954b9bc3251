"""The active-learning loop: knows no Ray, torch or MLflow."""
