"""Pictures to learn from and to measure on, public and drawn, behind one interface: `embryo.Embryo`. See README.md."""
