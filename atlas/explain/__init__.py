"""One picture against a finished run: what its networks see in it, its place on the atlas, what it adds to the classes.

    explainer = Explainer("runs/demo")
    picture = explainer.look(Path("photo.jpg").read_bytes())
    summary(picture)

Inside: square (a picture's file, read with limits, as the square that networks see), explainer (a run's networks and
maps, loaded once), effects (what each position adds to a class), groups (a layer's map in a few parts), icons (of
positions, groups and channels), plain (what is found, as plain values for JSON), rounding (numbers for JSON). The
command (command) writes a folder (folder) of pictures (overlays) with a page (html).
"""
