"""The data doctor: every file of some lists read to its end, and what is wrong with it, or with the lists, said."""
