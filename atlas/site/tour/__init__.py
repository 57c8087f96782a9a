"""The tour: what an atlas is about, told in a few steps with the run's own best examples."""
