"""Which models live where: blueprints, who holds what of them, and what this node does about it."""
