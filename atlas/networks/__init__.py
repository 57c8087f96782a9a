"""A network, ready to be asked: loaded, frozen, its layers known, its activations and attributions read."""
