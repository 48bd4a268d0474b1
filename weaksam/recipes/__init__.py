"""Room for companions on the same primitives (WeSAM, WS-SAM, GoodSAM-style); empty until one is built."""
