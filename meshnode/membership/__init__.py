"""Who is alive, how they are reached, and what they can do."""
