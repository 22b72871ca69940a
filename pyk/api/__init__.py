"""The vocabulary: the models, ONE table of kinds (`kinds.py`), and the grammar of names, quantities, selectors."""
