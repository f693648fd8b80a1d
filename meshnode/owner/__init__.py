"""Owner first: whether this machine takes work of other nodes now, and why not."""
