"""One image: its spatial activations, its place on the atlas, and the forward pass step by step.

    explainer = Explainer("runs/demo")
    picture = explainer.look(Path("photo.jpg").read_bytes())
    picture.summary()

Inside: picture (what someone gives, read with limits), explainer (a run's networks and maps, loaded once), effects
(what each position adds to a class), tail (the network behind a layer), groups (a layer's map in a few parts), icons
(what positions would like to see), recording, trace and arithmetic (the forward pass, one unit at a time), folder (what
the command writes), web (the same for the browser).
"""
