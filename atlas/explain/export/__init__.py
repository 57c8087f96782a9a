"""What `atlas explain` writes: pictures, figures and a small page."""
