"""How far the weights moved; never learns what a model is."""
