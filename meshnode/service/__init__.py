"""The agent as a service of the machine: what its manager is given, and the ways to ask it."""
