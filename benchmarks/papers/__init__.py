"""The papers' tables: their parameters and multiply-adds beside ours, their accuracy as the target.

Networks are the configs that ``model-index.yml`` lists; the few that are only counted are defined
here, in a module per operator.
"""
