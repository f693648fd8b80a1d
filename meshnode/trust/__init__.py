"""Who belongs to the mesh: identity, signed statements, invites and sealing."""
