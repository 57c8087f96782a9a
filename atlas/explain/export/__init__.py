"""What `python -m atlas.explain` writes: pictures, figures and a small page."""
