"""Which daemon is meant, how it is spoken to, and why it could not be."""
