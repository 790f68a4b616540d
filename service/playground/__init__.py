"""The playground: the static files of the web page at `/`. See README.md in this folder."""
