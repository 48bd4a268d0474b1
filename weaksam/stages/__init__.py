"""The method's stages, clues to wsis; each file holds settings, pure functions and run()."""
