"""One thin script per stage: read params, call the library, write outs."""
