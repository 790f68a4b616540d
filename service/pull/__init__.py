"""Fetches models: from a catalog, over HTTPS, from hubs, object stores and packages.

A file is downloaded into a cache, resumed where an earlier download ended, and compared with its
checksum. Nothing in it is executed. Importing a checkpoint is left to `training`; a model folder
needs nothing more.
"""
