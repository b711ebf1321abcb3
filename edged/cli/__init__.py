"""The commands `edged` and `edgectl`."""
