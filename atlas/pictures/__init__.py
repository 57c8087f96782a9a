"""Pictures listed, read, decoded, and cropped to views."""
