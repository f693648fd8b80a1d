"""The product's own cores in a deterministic, seeded world."""
