"""Generated from proto/edged/v1 by scripts/gen_proto."""
