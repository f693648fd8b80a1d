"""A camera or a video file, seen by the mesh."""
