"""The live page of `fedsam watch`: what the results hold and what is added to them, read only."""
