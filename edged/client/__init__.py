"""The client library: find a daemon, trust it for a reason, ask its models."""
