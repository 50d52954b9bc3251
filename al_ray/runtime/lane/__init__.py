"""A lane: one Tune actor that feeds cell after cell to one warm Ray Train worker group."""
