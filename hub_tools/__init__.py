"""Programs of ours inside the hub's image (0-hub): they stand between it and `tar` and `zflist`.

Standard library only, Python 3.9 and later: they run on the Python of upstream's image. Nothing
here imports the rest of this project.
"""
