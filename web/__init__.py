"""The HTTP face in pieces: reading bodies, writing replies, describing both."""
