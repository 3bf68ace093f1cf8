"""The papers' tables: their parameters and multiply-adds beside ours, their accuracy as the target.

Networks of detection and segmentation rows are the configs that ``model-index.yml`` lists; those of
classification rows, which are only counted, are defined here, in one module per operator.
"""
