"""How edged becomes a service of its host, and stops being one."""
