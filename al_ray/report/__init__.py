"""What a study says: statistics over its records, one HTML page, and the same numbers as tables."""
