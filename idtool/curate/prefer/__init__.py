"""Preference pairs for direct preference optimisation (DPO): which of two images of one request is the better one.

`candidates` reads scored images; `dmid` and `idglow` are the two rules that make pairs of them, as arithmetic on stored
scores; `table` and `mine` write the run; `review` puts pairs before people and `decisions` reads what they said;
`dpo_export` writes data sets for trainers.
"""
