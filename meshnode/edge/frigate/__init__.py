"""The door for Frigate, a network video recorder: its cameras' detector is a model of the mesh."""
