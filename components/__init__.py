"""Components: typed settings in, resources out. Nothing here opens a socket."""
