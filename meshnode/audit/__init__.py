"""What was done on this node, by whom, so that later changes of the record show."""
