"""The page of verdicts: a folder of static files that a browser opens from the disk, without network.

`sampling` says which images to label next, `thumbnails` finds the images, `build` writes the folder. `static/` is what
runs in the browser: `decide.js` repeats `m3agiqa.policy`, the other files show.
"""
