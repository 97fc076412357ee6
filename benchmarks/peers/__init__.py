"""Peers that live in environments of their own: `python FILE DIRECTORY`, spoken to over a pipe (`measure.Peer`)."""
