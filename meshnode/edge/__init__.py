"""The doors of the mesh for programs that are not agents."""
