"""The story of the product: a task from its submission to its one answer."""
