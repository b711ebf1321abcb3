"""Who a daemon is, whom it lets in, and how two machines come to trust each other."""
