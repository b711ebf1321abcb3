"""Runtimes behind one contract: see README.md."""
