"""Projects: a pool to label, by people, until there is a model and an estimate of how good it is."""
