"""Many searches that share compiled programs and devices."""
