"""In the daemon: the engine processes it runs, and the requests it never loses."""
