"""Pictures listed, read, decoded and cut into views."""
