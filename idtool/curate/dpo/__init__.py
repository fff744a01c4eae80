"""The steps of the DPO recipes: requests -> generate -> score -> prefer (DESIGN §1). What they share with the commands
`idtool generate`, `evaluate` and `prefer` is those commands' own code."""
