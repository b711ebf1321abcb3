"""What is wrong with this host for a daemon, each with the fix."""
