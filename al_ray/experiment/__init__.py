"""What a cell is, the grid of cells, their records, and MLflow as a view of them."""
