"""Where callers come in: addresses, connections, and how a request arrives."""
