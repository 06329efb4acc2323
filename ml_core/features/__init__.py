"""Feature versions: raw columns in, float32 matrix out, the same for one row and for ten million."""
