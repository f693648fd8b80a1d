"""The dashboard: one page for the eye, and the feed that keeps it up to date."""
