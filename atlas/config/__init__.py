"""What a run is asked for: the YAML read, checked and held as frozen values."""
