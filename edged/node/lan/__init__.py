"""What the local network is told of a daemon, and how little of what it says is believed."""
