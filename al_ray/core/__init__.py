"""The types of the loop and the arithmetic on them; numpy only."""
