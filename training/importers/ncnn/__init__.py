"""Networks of ncnn: a text file with the layers, and a binary file with their weights."""
