"""Which models exist, where they are, and how they travel."""
