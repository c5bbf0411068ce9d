"""Training of SIFA models: prepare slices, train the networks, export the segmentor as a bundle."""
