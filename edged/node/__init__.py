"""The host and the local network around a daemon: service manager, identity, tokens, discovery."""
