"""Other loaders, each run by a Python of its own: `python FILE DIRECTORY`, controlled over a pipe (`measure.Peer`)."""
