"""The daemon and its host: what the service manager is told, and what is asked of the system."""
