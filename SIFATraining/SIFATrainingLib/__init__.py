"""Make a SIFA model: prepare slices, train the networks, export the segmentor as a bundle."""
