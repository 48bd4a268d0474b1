"""Rules that choose the RoIs a refinement branch learns from."""
