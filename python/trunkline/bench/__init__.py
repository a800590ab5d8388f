"""``python -m trunkline.bench``: Trunkline beside the other attentions that are installed.

``attention`` measures one layer over the shapes of a grid, ``generate`` whole decode steps of :mod:`trunkline.llama`.
Both write the JSON of the ``trunkline bench`` command. Needs PyTorch.
"""
