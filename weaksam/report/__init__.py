"""Render the HTML page of a run and draw its pictures."""
