"""CHARIS (Instruct Identity, Algorithms 1 and 2): colours region by region, questions to a judge, and the means."""
