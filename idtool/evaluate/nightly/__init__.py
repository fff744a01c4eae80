"""A benchmark that a scheduler runs every night: dated results, compared with the last good night, kept and told."""
