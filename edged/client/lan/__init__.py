"""Daemons on the local network, as a client hears of them."""
