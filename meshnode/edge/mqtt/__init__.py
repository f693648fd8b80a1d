"""The MQTT door: what the mesh does, told to a broker; tasks from it; and a place where agents find each other."""
