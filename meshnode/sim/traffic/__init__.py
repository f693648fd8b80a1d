"""Tasks, workers and routing policies in a simulated mesh: the product's own beside those of other systems."""
