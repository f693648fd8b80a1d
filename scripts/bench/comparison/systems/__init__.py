"""A module for each system; `contract` says what it has to have."""
