"""idtool: curate, generate and evaluate for identity-preserving image generators."""

__version__ = "0.1.0"
