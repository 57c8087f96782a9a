"""Where the network errs: labels matched with classes, accuracy, and cells of more errors than chance gives."""
