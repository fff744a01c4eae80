"""Statistics of scores: intervals, differences and what may be said of them.

Samples of one identity are alike, so the identity is what is resampled, flipped and counted everywhere (a cluster).
Statements hold for other identities; prompts and seeds are taken as they are.
"""
