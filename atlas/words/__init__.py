"""What may be said of a direction of a layer in class names, and how sure that is. Usable without a pipeline."""
