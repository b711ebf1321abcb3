"""The engine process: one model, one owner."""
