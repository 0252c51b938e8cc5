"""A data set of clips converted once, to files that are small and quick to read: `data_set.convert_data_set`."""
