"""The network for concealed objects (WS-SAM) and its losses."""
