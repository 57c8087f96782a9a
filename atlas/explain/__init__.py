"""One picture, explained: what the network of a run does with it. ``recording`` and ``trace`` write the forward pass
down step by step, ``arithmetic`` shows how a single number in it comes about.
"""
