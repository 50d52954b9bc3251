"""The content of a report sorted the way its page shows it: rows, columns, drawings; one module a section."""
