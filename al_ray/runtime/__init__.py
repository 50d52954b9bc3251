"""Where cells run: a Ray to work on, pools in its object store, lanes of warm workers, the grid over them."""
