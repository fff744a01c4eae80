"""The commands, one file per group. Each parses, calls one function, prints; none has logic of its own."""
