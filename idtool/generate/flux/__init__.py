"""FLUX.1 with additions: condition tokens, attention masks, hooks (`transformer`), and the papers' methods on it."""
