"""The gRPC front of the daemon."""
