"""The pure core: a deterministic state machine that decides what each step computes."""
