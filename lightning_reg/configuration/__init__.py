"""Keys, words and meanings of configurations, their composition by Hydra, and the objects made from
them.
"""
