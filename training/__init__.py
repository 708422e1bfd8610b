"""Training rooms: one folder per paper, each with model, recipe, export and README. Never installed on the device."""
