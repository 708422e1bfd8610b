"""What the three papers of day 5 share: drawn blastocysts, training loop, checkpoint, export. See README.md."""
